"""What a sweep reads, and that it stops where it cannot read."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from services.callcore.calls.reconciler import AT_ONCE, Reconciler
from services.callcore.state.model import Address, Call, CallInput, State
from services.callcore.store import Found, Held
from shared.clock import now_ms
from shared.contracts.calls import Hold
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
        """Calls of which somebody is told just after they were read."""
        self.void_ones: set[str] = set()
        """Calls that have ended when it is asked whether their holds are void."""
        self.released_before: set[str] = set()
        """Users whom somebody else lets go first."""
        self.holds = {
            user: Hold(call=c, peer="x", since=1) for c in self.ids for user in (f"a-{c}", f"b-{c}")
        }

    async def _read(self, what: str) -> None:
        self.counts[what] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1

    async def keys(self) -> list[str]:
        return [*(f"call.{c}" for c in self.ids), *(f"user.{user}" for user in self.holds)]

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

    async def held(self, user: str) -> Held:
        await self._read("held")
        return Held(self.holds[user], 1)

    async def void(self, hold: Hold, _now: int) -> bool:
        return hold.call not in self.ids or hold.call in self.void_ones

    async def let_go(self, user: str, _call: str) -> bool:
        self.released.append(user)
        return user not in self.released_before


class Ends:
    """Notes the calls that are ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def happen(self, call: str, _: CallInput) -> None:
        self.ended.append(call)


def sweep(store: Reads, ends: Ends | None = None, mine: Callable[[str], bool] = lambda _: True) -> Reconciler:
    return Reconciler(store, ends, mine, seconds=15)  # type: ignore[arg-type]


async def test_a_call_that_lives_costs_three_reads_a_few_at_a_time() -> None:
    store = Reads()
    found = sweep(store)
    await found.round()
    assert store.counts == {"call": CALLS, "sessions": 2 * CALLS}
    assert 1 < store.most_at_once <= AT_ONCE
    assert found.calls == {State.RINGING: 0, State.ACCEPTED: CALLS}
    assert not any(found.swept.values())


async def test_what_is_deserted_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it at once, a little later: presence is about to tell of a session that it has just written off."""
    monkeypatch.setattr("services.callcore.calls.reconciler.SECOND_LOOK_SECONDS", 0.2)
    store, ends = Reads(), Ends()
    store.gone, store.changed = {f"a-c{n}" for n in range(40)}, {f"c{n}" for n in range(20)}
    store.gone.add("b-c45")
    found = sweep(store, ends)
    round_ = asyncio.create_task(found.round())
    await asyncio.sleep(0.1)
    assert not ends.ended
    store.gone.discard("b-c45")  # it has come to another gateway
    async with asyncio.timeout(30):
        await round_
    assert sorted(ends.ended) == sorted(f"c{n}" for n in range(20, 40))
    assert found.swept["session"] == 20


async def test_holds_of_no_call_are_still_looked_at() -> None:
    store = Reads()
    store.holds["left"] = Hold(call="gone", peer="peer", since=1)
    found = sweep(store)
    await found.round()
    assert store.released == ["left", "peer"]
    assert found.swept["hold"] == 1


async def test_a_call_of_another_instance_that_ends_at_this_moment_is_left_to_who_ended_it() -> None:
    store = Reads()
    store.void_ones = set(store.ids)
    found = sweep(store, mine=lambda id_: id_ not in store.ids)
    await found.round()
    assert store.counts == {"held": 2 * CALLS, "call": 2 * CALLS}
    assert not store.released and not any(found.swept.values())


async def test_a_hold_that_is_let_go_meanwhile_does_not_count() -> None:
    store = Reads()
    store.holds["left"] = Hold(call="gone", peer="peer", since=1)
    store.released_before = {"left", "peer"}
    found = sweep(store)
    await found.round()
    assert store.released == ["left", "peer"] and not any(found.swept.values())


async def test_it_is_put_off_where_something_cannot_be_read() -> None:
    store = Reads(fails="c5")
    with pytest.raises(Unavailable):
        await sweep(store).round()
    assert store.counts["call"] < CALLS
    read = store.counts.total()
    await asyncio.sleep(0.01)
    assert store.counts.total() == read, "nothing goes on behind its back"
