"""Queued relays, and what must not overtake them; without NATS, and each read of a call is answered by the test."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.callcore.relay.delivery import RelayDelivery
from services.callcore.relay.relay_router import RelayRouter
from services.callcore.relay.route_cache import RouteCache
from services.callcore.relay.sequence_tracker import SequenceTracker
from services.callcore.relay.slow_path import QueueLimits, SlowPath
from services.callcore.state.model import Call, CallInput, Outcome
from services.callcore.store import Found
from shared import subjects
from shared.messaging.mailbox import MailboxMessage
from shared.observability.limit_hits import LimitHits
from tests.unit.callcore.calls import ALICE, BOB, BOB_TAB, accepted, ended, ringing

INSTANCE = "cc"


class FakeBus:
    """Hands what is published to the test, and what the test sends to the router."""

    connected = True

    def __init__(self) -> None:
        self.on_reconnect: list[Any] = []
        self.send: Callable[[str, str, bytes, bytes], None] | None = None
        self.published: list[tuple[str, bytes]] = []

    async def subscribe_direct(self, _subject: str, handler: Any) -> None:
        self.send = handler

    def publish(self, subject: str, payload: bytes = b"", *_: Any) -> None:
        self.published.append((subject, payload))


class FakePublisher:
    """Notes what is delivered: (session, n of the candidate)."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, int]] = []

    def deliver(self, _gateway: str, session: str, _event: str, payload: bytes, _reply: str = "") -> bytes:
        self.delivered.append((session, json.loads(payload)["n"]))
        return payload


class GatedStore:
    """Each read of a call waits until the test answers it."""

    def __init__(self) -> None:
        self.reads: list[asyncio.Future[Found | None]] = []

    async def call(self, _call: str, *, fresh: bool = True) -> Found | None:
        read: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        self.reads.append(read)
        return await read


class World:
    """The relays of one instance."""

    def __init__(self, limits: QueueLimits) -> None:
        self.bus, self.mailbox_publisher, self.store = FakeBus(), FakePublisher(), GatedStore()
        cache, tracker = RouteCache(), SequenceTracker()
        delivery = RelayDelivery(self.bus, self.mailbox_publisher, None, LimitHits())  # type: ignore[arg-type]
        self.slow_path = SlowPath(
            self.store,  # type: ignore[arg-type]
            self._read_mailbox,
            cache,
            tracker,
            delivery,
            self.accept,
            limits,
        )
        self.relay_router = RelayRouter(
            self.bus,  # type: ignore[arg-type]
            INSTANCE,
            lambda _: INSTANCE,
            cache,
            tracker,
            delivery,
            self.slow_path,
        )
        self.accepting: list[CallInput] = []
        self._number = 0

    async def _read_mailbox(self, _: str) -> list[MailboxMessage]:
        return []

    async def accept(self, _call: str, call_input: CallInput) -> Outcome:
        self.accepting.append(call_input)
        return Outcome(accepted(), relay_to=(ALICE,))

    def relay(self, n: int, *, size: int = 0) -> None:
        """alice sends a candidate to bob."""
        self._number += 1
        assert self.bus.send is not None
        payload = {"n": n, "fill": "x" * size}
        subject = subjects.relay(INSTANCE, "c1", "alice", ALICE.session, "bob", "ice:candidate")
        flags = subjects.STARTS if self._number == 1 else subjects.FOLLOWS
        receipt = subjects.receipt("gw", ALICE.session, self._number, 0, flags)
        self.bus.send(subject, receipt, json.dumps(payload).encode(), b"")

    async def answer_read(self, call: Call | None, revision: int = 1) -> None:
        """Answer the read that waits, and let everything happen that follows from it."""
        await settle()
        assert self.store.reads, "nothing is read"
        self.store.reads.pop(0).set_result(Found(call, revision) if call is not None else None)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(limits: QueueLimits) -> AsyncIterator[World]:
    world = World(limits)
    await world.relay_router.start()
    yield world
    for read in world.store.reads:
        read.cancel()
    world.relay_router._subscription = None
    await world.relay_router.stop(1.0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(QueueLimits()) as world:
        yield world


async def test_a_state_waits_for_the_relays_that_came_before_it(world: World) -> None:
    """What was sent while it rang goes to all devices that rang, also if the call is accepted meanwhile."""
    world.relay(1)
    await settle()
    world.relay_router.announce(accepted(), 2)
    world.relay(2)
    await world.answer_read(ringing(), 1)
    assert world.mailbox_publisher.delivered == [(BOB.session, 1), (BOB_TAB.session, 1), (BOB.session, 2)]


async def test_an_end_waits_for_the_relays_that_came_before_it(world: World) -> None:
    world.relay(1)
    await settle()
    world.relay_router.announce(ended(), 3)
    await world.answer_read(accepted(), 2)
    assert world.mailbox_publisher.delivered == [(BOB.session, 1)]
    assert world.relay_router.cached_call("c1") is None, "the end is the last state"


async def test_a_queue_that_is_never_empty_drops_nothing_within_its_bounds() -> None:
    async with running(QueueLimits(size=2_000)) as world:
        world.relay(0, size=500)
        for n in range(1, 20):
            world.relay(n, size=500)
            assert world.slow_path.depths()[0] == 1, "it is never empty"
            await world.answer_read(None)  # no such call: it is refused, and the next one is read
        await world.answer_read(None)
        assert world.slow_path.dropped == 0
        assert sum(subject.startswith("receipt.") for subject, _ in world.bus.published) == 20


@pytest.mark.parametrize(("limits", "size"), [(QueueLimits(messages=2), 0), (QueueLimits(size=1_000), 400)])
async def test_a_relay_past_the_bounds_of_a_queue_is_dropped(limits: QueueLimits, size: int) -> None:
    async with running(limits) as world:
        for n in range(5):
            world.relay(n, size=size)
            await settle()
        # One is being processed, two wait.
        assert world.slow_path.depths() == (1, 2)
        assert world.slow_path.dropped == 2
        await world.answer_read(accepted())
        assert world.mailbox_publisher.delivered == [(BOB.session, n) for n in range(3)]


async def test_a_late_announcement_revives_no_call(world: World) -> None:
    world.relay_router.announce(accepted(), 2)
    world.relay_router.announce(ended(), 3)
    world.relay_router.announce(accepted(), 2)
    world.relay(1)
    await world.answer_read(ended(), 3)
    assert not world.mailbox_publisher.delivered
    (refusal,) = [payload for subject, payload in world.bus.published if subject.startswith("receipt.")]
    assert json.loads(refusal)["code"] == "receiver_not_found"
