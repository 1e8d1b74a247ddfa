"""The reconciler: what it reads, and that it stops at an error."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from services.callcore.calls.reconciler import CONCURRENCY, SECOND_CHECK_SECONDS, Reconciler
from services.callcore.state.model import Address, Call, CallInput, State
from services.callcore.store import Found, ReservationEntry
from shared.clock import now_ms
from shared.contracts.calls import Reservation
from shared.contracts.presence import Session
from shared.errors import Unavailable

CALLS = 50


class Reads:
    """A store of calls that live, each with two sessions that are there. ``fails``: the call that cannot be read."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.counts: Counter[str] = Counter()
        self.revisions: Counter[str] = Counter()
        self.released: list[str] = []
        self.at_once = self.most_at_once = 0
        self.ids = [f"c{n}" for n in range(CALLS)]
        self.gone: set[str] = set()
        """Users without a session."""
        self.changed: set[str] = set()
        """Calls that change just after they were read."""
        self.void_ones: set[str] = set()
        """Calls that have ended when their reservations are confirmed void."""
        self.released_before: set[str] = set()
        """Users whom another instance releases first."""
        self.reservations = {
            user: Reservation(call=c, peer="x", since=1) for c in self.ids for user in (f"a-{c}", f"b-{c}")
        }

    async def _read(self, what: str) -> None:
        self.counts[what] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1

    async def keys(self) -> list[str]:
        return [*(f"call.{c}" for c in self.ids), *(f"user.{user}" for user in self.reservations)]

    async def call(self, id_: str) -> Found | None:
        await self._read("call")
        if id_ == self.fails:
            raise Unavailable
        self.revisions[id_] += id_ in self.changed
        if id_ not in self.ids:
            return None
        return Found(
            Call(
                call=id_, state=State.ACCEPTED, caller=f"a-{id_}", callee=f"b-{id_}", call_type="audio",
                caller_at=Address(session=f"a-{id_}", gateway="g"), callee_at=Address(session=f"b-{id_}", gateway="g"),
                created_at=now_ms(), expires_at=now_ms(), caused_by="x", holds=(1, 2),
            ),
            self.revisions[id_],
        )  # fmt: skip

    async def sessions(self, user: str, *, fresh: bool) -> tuple[Session, ...]:
        await self._read("sessions")
        if user in self.gone:
            return ()
        return (Session(session=user, gateway="g", socket="s", since=1, resume_token="t"),)

    async def reservation(self, user: str) -> ReservationEntry:
        await self._read("held")
        return ReservationEntry(self.reservations[user], 1)

    async def confirm_void(self, reservation: Reservation, _now: int) -> bool:
        return reservation.call not in self.ids or reservation.call in self.void_ones

    async def release_from(self, user: str, _call: str) -> bool:
        self.released.append(user)
        return user not in self.released_before


class Ends:
    """Notes the calls that are ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def apply(self, call: str, _: CallInput) -> None:
        self.ended.append(call)


def reconciler(
    store: Reads,
    ends: Ends | None = None,
    owns: Callable[[str], bool] = lambda _: True,
    *,
    second_check_seconds: float = SECOND_CHECK_SECONDS,
) -> Reconciler:
    return Reconciler(store, ends, owns, seconds=15, second_check_seconds=second_check_seconds)  # type: ignore[arg-type]


async def test_a_call_that_lives_costs_three_reads_a_few_at_a_time() -> None:
    store = Reads()
    found = reconciler(store)
    await found.run_once()
    assert store.counts == {"call": CALLS, "sessions": 2 * CALLS}
    assert 1 < store.most_at_once <= CONCURRENCY
    assert found.calls == {State.RINGING: 0, State.ACCEPTED: CALLS}
    assert not any(found.repaired.values())


async def test_orphaned_calls_are_checked_again() -> None:
    """All of them at once, a little later: presence notifies callcore just after it has deleted a session."""
    store, ends = Reads(), Ends()
    store.gone, store.changed = {f"a-c{n}" for n in range(40)}, {f"c{n}" for n in range(20)}
    store.gone.add("b-c45")
    found = reconciler(store, ends, second_check_seconds=0.2)
    round_ = asyncio.create_task(found.run_once())
    await asyncio.sleep(0.1)
    assert not ends.ended
    store.gone.discard("b-c45")  # it has come to another gateway
    async with asyncio.timeout(30):
        await round_
    assert sorted(ends.ended) == sorted(f"c{n}" for n in range(20, 40))
    assert found.repaired["session"] == 20


async def test_reservations_without_a_live_call_are_checked() -> None:
    store = Reads()
    store.reservations["left"] = Reservation(call="gone", peer="peer", since=1)
    found = reconciler(store)
    await found.run_once()
    assert store.released == ["left", "peer"]
    assert found.repaired["hold"] == 1


async def test_a_call_of_another_instance_that_ends_at_this_moment_is_left_to_that_instance() -> None:
    store = Reads()
    store.void_ones = set(store.ids)
    found = reconciler(store, owns=lambda id_: id_ not in store.ids)
    await found.run_once()
    assert store.counts == {"held": 2 * CALLS, "call": 2 * CALLS}
    assert not store.released and not any(found.repaired.values())


async def test_a_reservation_that_is_released_meanwhile_does_not_count() -> None:
    store = Reads()
    store.reservations["left"] = Reservation(call="gone", peer="peer", since=1)
    store.released_before = {"left", "peer"}
    found = reconciler(store)
    await found.run_once()
    assert store.released == ["left", "peer"] and not any(found.repaired.values())


async def test_a_run_stops_at_a_call_that_cannot_be_read() -> None:
    store = Reads(fails="c5")
    with pytest.raises(Unavailable):
        await reconciler(store).run_once()
    assert store.counts["call"] < CALLS
    read = store.counts.total()
    await asyncio.sleep(0.01)
    assert store.counts.total() == read, "no read continues after the error"
