"""What waits for clients that do not read: an age, and a share of the gateway's memory."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.transport.unread_limits import UnreadLimits
from services.gateway.transport.unread_limits import __name__ as module
from services.gateway.websocket.send_queue import PACKET_BYTES, QueuedMessage, SendQueue, UnreadTotal

READS = 0.05
EACH = 1000
STEP = 0.002


class Crowd:
    """Clients of a gateway. ``broken``: those whose connections were broken, in order, and for which limit."""

    def __init__(self, *, most: int | None = None, seconds: float = 60.0) -> None:
        self.total = UnreadTotal(most)
        self.connections: dict[str, Any] = {}
        self.broken: list[tuple[str, str]] = []
        self.limits = UnreadLimits(self.connections, self.total, self._break_off, seconds=seconds)

    def client(self, name: str, messages: int = 0) -> SendQueue:
        queue = SendQueue(self.total)
        self.connections[name] = SimpleNamespace(queue=queue)
        for _ in range(messages):
            queue.put_nowait(QueuedMessage(b"x" * (EACH - PACKET_BYTES)))
        return queue

    def _break_off(self, eio_sid: str, limit: str) -> None:
        self.broken.append((eio_sid, limit))
        self.connections.pop(eio_sid).queue.discard()


async def passes(seconds: float) -> None:
    """Let time of the loop pass: its own, so that a busy machine changes nothing."""
    clock: Clock = asyncio.get_running_loop().time  # type: ignore[assignment]
    until = clock.now + seconds
    while clock.now < until:
        clock.now = min(until, clock.now + STEP)
        for _ in range(3):
            await asyncio.sleep(0)


class Clock:
    """The time of the event loop, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(autouse=True)
async def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "time", Clock())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{module}.READS_SECONDS", READS)
    monkeypatch.setattr(f"{module}.SHED_SECONDS", 0.01)
    monkeypatch.setattr(f"{module}.CHECK_SECONDS", 0.01)


async def test_what_waits_has_an_age() -> None:
    crowd = Crowd(seconds=0.1)
    crowd.limits.start()
    crowd.client("idle")
    crowd.client("deaf", 1)
    reads = crowd.client("reads", 1)
    for _ in range(8):
        await passes(0.02)
        reads.put_nowait(QueuedMessage(b""))
        reads.pop()
    assert crowd.broken == [("deaf", "unread_seconds")]
    await crowd.limits.stop()


async def test_within_the_share_nobody_is_broken() -> None:
    crowd = Crowd(most=10 * EACH)
    for name in ("one", "other"):
        crowd.client(name, 5)
    await passes(3 * READS)
    assert crowd.total.size == 10 * EACH and not crowd.broken


async def test_those_that_hold_most_make_room_of_equal_ones_the_oldest() -> None:
    crowd = Crowd(most=10 * EACH)
    crowd.client("small", 1)
    for name in ("older", "newer"):
        await passes(0.01)
        crowd.client(name, 3)
    await passes(2 * READS)
    crowd.client("fresh", 7)
    await passes(READS / 2)
    assert crowd.broken == [("older", "unread_total"), ("newer", "unread_total")]
    assert crowd.total.size == 8 * EACH


async def test_a_client_that_reads_is_never_broken_for_the_share() -> None:
    crowd = Crowd(most=10 * EACH)
    reads = crowd.client("reads", 50)
    crowd.client("deaf", 1)
    for _ in range(30):
        await passes(READS / 5)
        reads.put_nowait(reads.pop())
        assert reads.size == 50 * EACH
    assert crowd.broken == [("deaf", "unread_total")]
    await passes(3 * READS)  # it stops reading, and nothing more comes
    assert crowd.broken[1:] == [("reads", "unread_total")] and crowd.total.size == 0


async def test_nothing_is_tried_after_the_end() -> None:
    crowd = Crowd(most=EACH, seconds=0.01)
    crowd.limits.start()
    crowd.client("deaf", 2)
    await crowd.limits.stop()
    crowd.client("late", 2)
    await passes(2 * READS)
    assert not crowd.broken
