"""What was done and not told, because its instance died there, is sent by the next instance."""

from collections.abc import Callable
from typing import Any

import pytest

from services.callcore.app import Timing
from services.callcore.notify.notifier import Notifier
from services.callcore.state.model import Outcome, State
from shared import subjects
from shared.clock import now_ms
from shared.errors import Late, Unavailable
from shared.ids import new_id
from tests.integration.callcore.conftest import Start, World

pytestmark = pytest.mark.timeout(60)

Dies = Callable[[Callable[[Outcome], bool]], list[str]]


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Dies:
    """Has every instance die, as it seems from outside, before it tells of certain outcomes; the calls of those."""
    notify = Notifier.notify

    def before(which: Callable[[Outcome], bool]) -> list[str]:
        died: list[str] = []

        def notify_or_die(self: Notifier, outcome: Outcome, *args: Any, **more: Any) -> None:
            if which(outcome):
                died.append(outcome.call.call)
                raise Late
            notify(self, outcome, *args, **more)

        monkeypatch.setattr(Notifier, "notify", notify_or_die)
        return died

    return before


async def ringing(world: World, callcore: Start, **settings: Any) -> str:
    """ann calls bob, who has a phone."""
    await callcore(**settings)
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    return (await world.initiate("ann-phone", "bob")).call


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_call_ended_by_a_reconciler_that_died_is_notified_by_the_next_run(
    world: World, callcore: Start, dies: Dies, accepted: bool
) -> None:
    call = await ringing(world, callcore, timing=Timing(second_check_seconds=0.1), sweep_seconds=1)
    if accepted:
        await world.accept("bob-phone", call)
    died = dies(lambda outcome: outcome.call.state is State.ENDED)
    await world.online("ann")  # presence has died before it told of this
    await world.until(lambda: died)
    assert not world.to("bob-phone", "call:ended")
    died_often = len(died)
    dies(lambda _: False)
    told = await world.expect("bob-phone", "call:ended")
    assert (told.body["by"], told.body["reason"]) == ("ann", "connection_lost")
    assert died_often
    assert not await world.reserved("bob")


async def test_a_reconciled_ring_is_notified_by_the_next_run_once_at_the_current_address(
    world: World, callcore: Start, dies: Dies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.callcore.app.set_deadline", lambda *_: _nothing())
    died = dies(lambda outcome: outcome.call.state is State.ENDED)
    call = await ringing(
        world, callcore, timing=Timing(overdue_ms=0), sweep_seconds=1, ring_timeout_seconds=1
    )
    await world.until(lambda: died)
    gateways: list[str] = []

    async def note(msg: Any) -> None:
        gateways.append(msg.subject.split(".")[1])

    await world.bus.subscribe(subjects.deliver("gw2", "bob-phone", "call:ended"), note)
    key = subjects.key_user("bob")
    entry = await world.sessions.get(key, fresh=True)
    assert entry.value is not None
    await world.sessions.put(
        key, entry.value.replace(b'"gw1"', b'"gw2"'), entry.revision
    )  # it resumes elsewhere
    dies(lambda _: False)
    for session in ("ann-phone", "bob-phone"):
        told = await world.expect(session, "call:ended")
        assert (told.body["callId"], told.body["reason"]) == (call, "timeout")
    await world.until(lambda: gateways)
    seen = len(world.to("bob-phone", "call:ended"))
    await _two_sweeps(world)
    assert len(world.to("bob-phone", "call:ended")) == seen == 1


async def _nothing() -> None:
    """A deadline that NATS has lost."""


async def _two_sweeps(world: World) -> None:
    until = now_ms() + 2_500
    await world.until(lambda: now_ms() > until)


async def test_a_device_that_resumed_and_began_to_ring_gets_incoming_when_its_attach_is_repeated(
    world: World, callcore: Start, dies: Dies
) -> None:
    call, request = await ringing(world, callcore), new_id()
    await world.online("bob", "phone", "tab", "pad")
    died = dies(lambda outcome: len(outcome.call.ringing) > 1)
    with pytest.raises(Unavailable):
        await world.attached("bob-tab", request_id=request, resumed=True)
    assert died
    dies(lambda _: False)
    await world.attached("bob-pad")  # another move does not hide it
    await world.attached("bob-tab", request_id=request, resumed=True)
    assert (await world.expect("bob-tab", "call:incoming")).body["callId"] == call
    told = len(world.to("bob-tab", "call:incoming"))
    await world.attached("bob-tab", resumed=True)
    await world.attached("bob-pad", resumed=True)
    assert len(world.to("bob-tab", "call:incoming")) == told, "who rings already knows"


async def test_a_call_that_was_created_and_not_notified_is_notified_although_its_caller_has_moved(
    world: World, callcore: Start, dies: Dies
) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    died = dies(lambda _: True)
    request, call = new_id(), new_id()
    with pytest.raises(Unavailable):
        await world.initiate("ann-phone", "bob", request_id=request, call=call)
    assert died
    dies(lambda _: False)
    await world.attached("ann-phone", gateway="gw2", resumed=True)
    await world.initiate("ann-phone", "bob", request_id=request, call=call, settle=True)
    assert (await world.expect("bob-phone", "call:incoming")).body["callId"] == call
    assert await world.expect("ann-phone", "call:initiated")
