"""Rendezvous hashing: everyone who sees the same instances agrees, and a change moves only what it must."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from shared import subjects
from shared.clock import SeqClock
from shared.contracts.liveness import Beat
from shared.messaging import membership as members_module
from shared.messaging.membership import SILENT_SECONDS, Membership
from shared.nats.connection import Bus


def members(*names: str) -> Membership:
    found = Membership(Bus.__new__(Bus), "callcore")
    found._lists["callcore"] = names
    return found


def test_the_order_of_names_does_not_matter() -> None:
    one, other = members("a", "b", "c"), members("c", "a", "b")
    assert all(one.owner("callcore", f"call{i}") == other.owner("callcore", f"call{i}") for i in range(200))


def test_nobody_there_is_nobody_in_charge() -> None:
    assert members().owner("callcore", "call") is None


def test_an_instance_that_goes_moves_only_its_own_calls() -> None:
    before, after = members("a", "b", "c"), members("a", "c")
    for i in range(500):
        owner = before.owner("callcore", f"call{i}")
        assert owner == "b" or after.owner("callcore", f"call{i}") == owner


def test_calls_are_spread_evenly() -> None:
    found = members("a", "b", "c", "d")
    share = Counter(found.owner("callcore", f"call{i}") for i in range(4000))
    assert all(850 < count < 1150 for count in share.values())


def test_seq_only_grows() -> None:
    clock = SeqClock()
    minted = [clock.next() for _ in range(10_000)]
    assert all(a < b for a, b in pairwise(minted))


class FakeBus:
    """Hands beats to whoever listens."""

    def __init__(self) -> None:
        self.connected = True
        self.on_reconnect: list[Any] = []
        self._handler: Any = None

    async def subscribe(self, _subject: str, handler: Any) -> None:
        self._handler = handler

    def publish(self, *_: Any) -> None:
        """Nobody answers a roll call yet."""

    async def beat(self, instance: str, *, leaving: bool = False) -> None:
        beat = Beat(version="0", started_at=1, leaving=leaving)
        await self._handler(SimpleNamespace(subject=subjects.live("callcore", instance), data=beat.dump()))


@pytest_asyncio.fixture
async def watched(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[FakeBus, Membership, SimpleNamespace]]:
    """Members that look whom to drop in each turn of the event loop, by a clock that the test moves."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(members_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(members_module, "BEAT_SECONDS", 0)
    bus = FakeBus()
    found = Membership(bus, "callcore")  # type: ignore[arg-type]
    await found.start()
    yield bus, found, clock
    await found.stop()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_instance_that_falls_silent_is_dropped(
    watched: tuple[FakeBus, Membership, SimpleNamespace],
) -> None:
    bus, found, clock = watched
    await bus.beat("cc-1")
    clock.now += SILENT_SECONDS
    await turns()
    assert found.alive("callcore") == ("cc-1",)
    clock.now += 0.1
    await turns()
    assert found.alive("callcore") == ()


async def test_nobody_is_dropped_for_an_outage_of_nats(
    watched: tuple[FakeBus, Membership, SimpleNamespace],
) -> None:
    """Right after it, before the first beat: whoever is asked for an owner then must find one."""
    bus, found, clock = watched
    await bus.beat("cc-1")
    bus.connected = False
    clock.now += 10 * SILENT_SECONDS
    await turns()
    bus.connected = True
    await turns()
    assert found.alive("callcore") == ("cc-1",)
    clock.now += SILENT_SECONDS + 0.1  # and it does not come back
    await turns()
    assert found.alive("callcore") == ()


async def test_an_instance_that_says_goodbye_is_dropped_at_once(
    watched: tuple[FakeBus, Membership, SimpleNamespace],
) -> None:
    bus, found, _ = watched
    for name in ("cc-1", "cc-2"):
        await bus.beat(name)
    generation = found.generation
    await bus.beat("cc-1", leaving=True)
    assert found.alive("callcore") == ("cc-2",) and found.generation > generation
