"""Marks in the stream DELIVER: a resume is told of a time in which nothing was stored, though nobody resumed then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from shared.clock import now_ms
from shared.messaging import mailbox, mailbox_marks
from shared.messaging.mailbox import MailboxReach
from shared.messaging.mailbox_marks import MARKS_PER_SUBJECT, Marker, Marks
from shared.nats import streams
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.integration.test_jetstream_full import Filler

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

EVERY = 0.05


@asynccontextmanager
async def _marking(bus: Bus) -> AsyncIterator[Marker]:
    marker = Marker(bus, seconds=EVERY)
    marker.start()
    try:
        yield marker
    finally:
        await marker.stop()


@pytest.fixture
def small(tmp_path: Path) -> EmbeddedNats:
    return EmbeddedNats(tmp_path / "small", jetstream="max_file_store: 48MB\n max_memory_store: 64MB")


async def test_a_stream_that_was_full_for_a_while_shows_afterwards(
    small: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "_LOOK_SECONDS", 0.0)
    small.start()
    bus = await Bus.connect(small.url, name="marks")
    try:
        await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)
        async with _marking(bus):
            await asyncio.sleep(4 * EVERY)
            known, before = MailboxReach(bus), now_ms()
            assert await known.covers(before)
            filler = Filler(bus, "memory")
            await filler.fill()
            await asyncio.sleep(10 * EVERY)
            await filler.empty()
            await asyncio.sleep(10 * EVERY)
            after = now_ms()
            for reach in (known, MailboxReach(bus)):  # a gateway that has just started knows it, too
                assert not await reach.covers(before), "what was sent meanwhile is lost"
                assert await reach.covers(after)
    finally:
        await bus.close()
        small.kill()


async def test_the_mark_after_a_gap_is_waited_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream stores again, but the mark that shows what it did not store is not there yet."""
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)
    marker, reach, before = Marker(bus), MailboxReach(bus), now_ms()
    marker.mark()
    await asyncio.sleep(mailbox_marks._OVERDUE_MS / 1000)
    marker._number += 1  # this one was not stored
    asyncio.get_running_loop().call_later(0.5 * mailbox_marks.MARK_SECONDS, marker.mark)
    assert not await reach.covers(before)
    monkeypatch.setattr(mailbox, "_LOOK_SECONDS", 0.0)
    assert await reach.covers(now_ms())


async def test_no_mark_goes_before_its_time_and_each_is_read_once(bus: Bus) -> None:
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)
    marker, marks = Marker(bus), Marks(bus)
    count = 2 * streams.MAILBOX_MAX + MARKS_PER_SUBJECT // 2
    taken = 0
    take = marks.take

    def counted(mark: dict[str, object]) -> None:
        nonlocal taken
        taken += 1
        take(mark)

    marks.take = counted  # type: ignore[method-assign]
    for part in range(2):
        for _ in range(count):
            marker.mark()
        await bus.flush()
        await marks.look(1)
        assert (taken, marks.complete_since) == ((part + 1) * count, 0)


async def test_an_instance_that_stops_and_another_that_starts_leave_no_gap(bus: Bus) -> None:
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)
    begun = now_ms()
    for _ in range(2):
        async with _marking(bus):
            await asyncio.sleep(4 * EVERY)
        await asyncio.sleep(10 * EVERY)
    assert await MailboxReach(bus).covers(begun)


def _mark(run: str, number: int, at: int) -> dict[str, object]:
    return {"run": run, "number": number, "at": at}


async def test_what_counts_as_a_gap() -> None:
    marks = Marks(cast(Bus, None))
    for mark in (_mark("a", 0, 1_000), _mark("b", 0, 1_500), _mark("a", 1, 2_000), _mark("b", 1, 2_500)):
        marks.take(mark)
    assert marks.complete_since == 0
    marks.take(_mark("a", 1, 2_000))  # read twice
    assert marks.complete_since == 0
    marks.take(_mark("a", 4, 5_000))
    assert marks.complete_since == 5_000
    marks.take(_mark("b", 2, 3_500))
    assert marks.complete_since == 5_000
    marks.take(_mark("c", 3, 9_000))
    assert marks.complete_since == 9_000, "the first ones of a run are missing"


@pytest.mark.parametrize(("at", "since"), [(20_500, 20_000), (29_000, 29_000)])
async def test_a_stream_that_is_new_is_complete_since_it_was_made(at: int, since: int) -> None:
    """NATS has come back without what it had in memory, and a callcore has put marks before the stream was there."""
    marks = Marks(cast(Bus, None))
    marks._created = 20_000
    marks.take(_mark("a", 3, at))
    assert marks.complete_since == since


async def test_runs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_marks, "RUNS_MAX", 10)
    marks = Marks(cast(Bus, None))
    for n in range(100):
        marks.take(_mark(f"run-{n}", 0, 1_000 + n))
    assert len(marks._numbers) == 10
