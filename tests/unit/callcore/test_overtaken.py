"""Calls whose placing was tried again while an earlier try is only slow: named interleavings.

What Hypothesis does not find in 500 examples of ``test_interleavings``.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.callcore.state.model import State
from services.callcore.store import FORMING_MS
from shared.contracts.calls import Reservation
from shared.errors import SignallingError, Unavailable
from tests.unit.callcore.test_interleavings import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[[], World]:
    """Makes a world; that needs the event loop of the test."""
    return lambda: World(monkeypatch)


async def let(world: World, *operations: str) -> None:
    """Let the oldest waiting operation of each such text happen, one after the other."""
    for operation in operations:
        await world.gate.settle()
        waiting = [what for _, what in world.gate.waiting]
        assert operation in waiting, f"{operation} does not wait: {waiting}"
        await world.gate.let(waiting.index(operation))


READS = ("calls get user.ann", "calls get user.bob", "sessions get user.bob")


async def until_created(world: World) -> None:
    """ann calls bob; the record of the call is on its way."""
    world.initiate("a1", "bob")
    await let(world, *READS, "calls put user.ann", "calls put user.bob")
    await let(world, "sessions get user.ann", "sessions get user.bob")
    assert [what for _, what in world.gate.waiting] == ["calls put call.call1"]


def told(world: World, call: str) -> dict[tuple[str, str], int]:
    """How often each session was told which event of a call."""
    counts: dict[tuple[str, str], int] = {}
    for session, event, body in world.told:
        if body["callId"] == call:
            counts[session, event] = counts.get((session, event), 0) + 1
    return counts


async def test_two_later_tries_that_meet_release_nothing_that_the_first_needs(
    world: Callable[[], World],
) -> None:
    """One was passed on to the owner, one is done by who passed it on, one is the second try of the gateway."""
    w = world()
    await until_created(w)
    for _ in range(2):
        w.overtake(0)
        await let(w, *READS, "calls get call.call1")
    writes = ["calls put user.ann", "calls put user.bob"]
    await w.gate.settle()
    assert [what for _, what in w.gate.waiting] == ["calls put call.call1", *writes, *writes]
    # The second try is first at ann, the third at bob.
    await w.gate.let(1)
    await w.gate.let(2)
    await w.gate.let(2)
    await w.gate.let(1)
    for _ in range(4):  # had one of them released a hold, that would happen before the call comes about
        await w.gate.settle()
        releases = [n for n, (_, what) in enumerate(w.gate.waiting) if "delete" in what]
        if releases:
            await w.gate.let(releases[0])
    await let(w, "calls put call.call1")
    await w.finish()
    assert [call.call for call in w.live()] == ["call1"]
    assert w.reservation("ann") is not None and w.reservation("bob") is not None


async def test_a_try_that_comes_late_does_not_take_the_users(world: Callable[[], World]) -> None:
    w = world()
    w.initiate("a1", "bob")
    await let(w, *READS[:-1])
    w.now += 2_001  # the gateway has stopped waiting
    await let(w, READS[-1])
    await w.finish()
    assert w.reservation("ann") is None and w.reservation("bob") is None and not w.live()


async def test_a_try_that_comes_late_does_not_create_the_call(world: Callable[[], World]) -> None:
    w = world()
    w.initiate("a1", "bob")
    await let(w, *READS, "calls put user.ann", "calls put user.bob", "sessions get user.ann")
    w.now += 2_001
    await let(w, "sessions get user.bob")
    await w.finish()
    assert not w.live() and "call.call1" not in w.calls.entries


async def test_a_call_that_was_created_too_late_to_notify_is_notified_by_the_next_try(
    world: Callable[[], World],
) -> None:
    w = world()
    await until_created(w)
    w.overtake(0)
    await let(w, "calls put call.call1")
    assert not w.told, "whoever asked has asked elsewhere"
    await w.finish()
    assert told(w, "call1") == {
        ("a1", "call:initiated"): 1,
        ("b1", "call:incoming"): 1,
        ("b2", "call:incoming"): 1,
    }


async def test_a_try_that_finds_the_call_of_an_earlier_try_notifies(world: Callable[[], World]) -> None:
    """It has taken the holds anew before the record of the earlier try arrives."""
    w = world()
    await until_created(w)
    w.overtake(0)
    await let(w, *READS, "calls get call.call1", "calls put user.ann", "calls put user.bob")
    await let(w, "sessions get user.ann", "sessions get user.bob")
    await let(w, "calls put call.call1")  # of the first try
    await w.finish()
    assert told(w, "call1")["b1", "call:incoming"] == 1
    assert [call.state for call in w.live()] == [State.RINGING]


async def test_a_call_whose_creation_was_not_answered_keeps_its_users(world: Callable[[], World]) -> None:
    """Nobody knows whether it is there; so it may be, and is found by the next try."""
    w = world()
    put = w.calls.put

    def without_an_answer(key: str, value: bytes, revision: int, **more: Any) -> asyncio.Future[int]:
        async def lost() -> int:
            await put(key, value, revision, **more)
            raise Unavailable

        return asyncio.ensure_future(lost()) if key == "call.call1" else put(key, value, revision, **more)

    w.calls.put = without_an_answer  # type: ignore[method-assign]
    await until_created(w)
    request = w.tasks[0][1]
    await let(w, "calls put call.call1")
    await w.gate.settle()
    assert w.reservation("ann") is not None and w.reservation("bob") is not None and not w.told
    assert request is not None
    w._spawn(w.call_setup.initiate(request.model_copy(update={"attempt": 2})), request)
    await w.finish()
    assert [call.call for call in w.live()] == ["call1"] and told(w, "call1")["b1", "call:incoming"] == 1


async def test_a_reservation_whose_call_was_never_created_is_voided_for_good(
    world: Callable[[], World],
) -> None:
    """Who takes the user over makes sure that the call of the hold cannot come about any more."""
    w = world()
    await until_created(w)
    w.now += FORMING_MS + 1
    w.initiate("c1", "bob")
    slow = w.gate.waiting.pop(0)
    await w.gate.settle()
    while w.gate.waiting:
        await w.gate.let(0)
    assert [call.call for call in w.live()] == ["call2"]
    w.gate.waiting.append(slow)
    await w.finish()
    assert [call.call for call in w.live()] == ["call2"]


async def test_a_reservation_whose_call_is_being_created_is_waited_for(world: Callable[[], World]) -> None:
    w = world()
    await until_created(w)
    w.initiate("c1", "bob")
    await let(w, "calls get user.cem", "calls get user.bob", "sessions get user.bob", "calls get call.call1")
    await let(w, "calls get call.call1")  # whether it is void
    await let(w, "back off")
    await let(w, "calls put call.call1")
    await w.finish()
    assert [call.call for call in w.live()] == ["call1"], "bob is busy"
    reservation = w.reservation("bob")
    assert isinstance(reservation, Reservation) and reservation.call == "call1"


async def test_a_call_of_which_one_user_was_taken_meanwhile_releases_the_other(
    world: Callable[[], World],
) -> None:
    """All or nothing: a try that is the only one of its request lets go what it has taken."""
    w = world()
    w.initiate("a1", "bob")
    await let(w, *READS)
    w.calls.write("user.bob", Reservation(call="other", peer="cem", since=w.now).dump())
    await let(w, "calls put user.ann", "calls put user.bob")
    await let(w, "calls delete user.ann")
    assert w.reservation("ann") is None
    w.now += 60_000
    w.calls.write("user.bob", None)
    try:
        await w.finish()
    except SignallingError:
        pytest.fail("an error that is no answer came out")


async def test_a_call_that_is_settled_before_it_is_created_is_never_created(
    world: Callable[[], World],
) -> None:
    """The gateway gives up while an instance has the record of the call in its hands."""
    w = world()
    await until_created(w)
    slow = w.gate.waiting.pop(0)
    w.settle("r1")
    await w.gate.settle()
    while w.gate.waiting:
        await w.gate.let(0)
    assert w.reservation("ann") is None and w.reservation("bob") is None
    w.gate.waiting.append(slow)
    await w.finish()
    assert not w.live() and not w.told
    assert w.reservation("ann") is None and w.reservation("bob") is None


async def test_a_call_that_is_created_before_it_is_settled_is_notified(world: Callable[[], World]) -> None:
    w = world()
    await until_created(w)
    w.now += 2_001
    w.settle("r1")
    await let(w, *READS, "calls put call.call1")
    await w.finish()
    assert [call.state for call in w.live()] == [State.RINGING]
    assert told(w, "call1")["b1", "call:incoming"] == 1
