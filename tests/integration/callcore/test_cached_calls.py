"""What an instance remembers of a call saves a read, and decides nothing that compare-and-set does not confirm."""

from collections.abc import Callable

import pytest

from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.call_service import CallService
from services.callcore.notify.notifier import Notifier
from services.callcore.state.model import Address, Call, CallInput, InputKind, State
from services.callcore.store import Found, Store
from shared import subjects
from shared.errors import CallNotFound, InvalidState
from shared.messaging.event_log import EventLog
from shared.messaging.mailbox import MailboxPublisher
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from tests.integration.callcore.conftest import Start, World

BOB = Address(session="bob-phone", gateway="gw1")


class Read(Store):
    """A store that counts what is read of calls."""

    reads = 0

    async def call(self, call: str, *, fresh: bool = True) -> Found | None:
        self.reads += 1
        return await super().call(call, fresh=fresh)


def service(bus: Bus, known: Callable[[str], Found | None]) -> tuple[CallService, Read]:
    """One that is in charge of all calls, and remembers what ``known`` says."""
    store = Read(Bucket(bus, subjects.BUCKET_CALLS), Bucket(bus, subjects.BUCKET_SESSIONS))

    def announce(*_: object, **__: object) -> None:
        """Nobody relays."""

    notifier = Notifier(announce, MailboxPublisher(bus), EventLog(bus))
    call_owner = CallOwner("it", lambda _: "it", None)  # type: ignore[arg-type]  # nobody is asked
    return CallService(store, notifier, call_owner, known, lambda _: None, lambda _: None), store


@pytest.fixture
async def ringing(world: World, callcore: Start) -> Found:
    """A call that rings on two devices."""
    await callcore()
    await world.online("ann", "web")
    await world.online("bob", "phone", "tablet")
    call = (await world.initiate("ann-web", "bob")).call
    found = await Store(world.calls, world.sessions).call(call)
    assert found is not None and found.call.state is State.RINGING
    return found


def call_input(kind: InputKind, at: Address = BOB) -> CallInput:
    return CallInput(kind, f"r {kind}", "bob", at)


async def test_a_current_cached_call_is_not_read(bus: Bus, ringing: Found) -> None:
    it, store = service(bus, lambda _: ringing)
    outcome = await it.apply(ringing.call.call, call_input(InputKind.ACCEPT))
    assert outcome.call.state is State.ACCEPTED and store.reads == 0
    found = await store.call(ringing.call.call)
    assert found is not None and found.call == outcome.call


async def test_a_call_that_has_changed_since_is_read(bus: Bus, world: World, ringing: Found) -> None:
    await world.end("ann-web", ringing.call.call)
    it, store = service(bus, lambda _: ringing)
    with pytest.raises(CallNotFound):
        await it.apply(ringing.call.call, call_input(InputKind.ACCEPT))
    assert store.reads == 1


async def test_a_call_is_read_before_an_input_is_refused(bus: Bus, ringing: Found) -> None:
    """The caller may not accept a call that rings; but this one only seems to be the caller of it."""
    swapped: Call = ringing.call.model_copy(update={"caller": "bob", "caller_at": BOB, "callee": "ann"})
    it, store = service(bus, lambda _: Found(swapped, ringing.revision))
    outcome = await it.apply(ringing.call.call, call_input(InputKind.ACCEPT))
    assert outcome.call.state is State.ACCEPTED and store.reads == 1


async def test_a_call_is_read_before_an_input_changes_nothing(bus: Bus, world: World, ringing: Found) -> None:
    """A device that is remembered to ring, but left meanwhile, comes back: it rings again."""
    await world.left("bob-phone")
    it, store = service(bus, lambda _: ringing)
    back = CallInput(InputKind.ATTACHED, "back", "bob", BOB, resumed=True)
    outcome = await it.apply(ringing.call.call, back)
    assert BOB in outcome.call.ringing and len(outcome.sends) == 1 and store.reads == 1


async def test_a_call_is_read_before_a_repeated_request_is_answered(bus: Bus, ringing: Found) -> None:
    first, _ = service(bus, lambda _: ringing)
    done = await first.apply(ringing.call.call, call_input(InputKind.ACCEPT))
    for remembered in (ringing, Found(done.call, 0)):
        again, store = service(bus, lambda _, remembered=remembered: remembered)  # type: ignore[misc]
        outcome = await again.apply(ringing.call.call, call_input(InputKind.ACCEPT))
        assert outcome.call == done.call and len(outcome.sends) == len(done.sends) and store.reads == 1
    third, _ = service(bus, lambda _: ringing)
    with pytest.raises(InvalidState):
        await third.apply(ringing.call.call, CallInput(InputKind.ACCEPT, "another", "bob", BOB))
