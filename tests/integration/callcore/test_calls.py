"""Deeds of call control on a real server: what the interleavings of the unit tests cannot show."""

import asyncio
import time

import pytest

from services.callcore.store import Store
from shared import subjects
from shared.contracts.calls import Reservation
from shared.contracts.liveness import Beat
from shared.contracts.presence import Session
from shared.errors import (
    AlreadyInCall,
    CallNotFound,
    InvalidState,
    UserNotFound,
    UserUnavailable,
)
from shared.ids import new_id
from shared.nats import streams
from shared.nats.kv import ABSENT
from tests.integration.callcore.conftest import Start, World


async def test_a_whole_call(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone", "tab")
    call = (await world.initiate("ann-phone", "bob", metadata={"lesson": 7})).call
    incoming = await world.expect("bob-tab", "call:incoming")
    assert incoming.body["metadata"] == {"lesson": 7}
    await world.accept("bob-phone", call)
    assert (await world.expect("bob-tab", "call:ended")).body["reason"] == "answered_elsewhere"
    assert await world.reserved("ann") and await world.reserved("bob")
    await world.end("ann-phone", call)
    await world.expect("bob-phone", "call:ended")
    assert not await world.reserved("ann") and not await world.reserved("bob")
    events = [s.event for s in world.to("ann-phone")]
    assert events == ["call:initiated", "call:accepted", "call:ended"]
    seqs = [s.body["seq"] for s in world.seen]
    assert seqs == sorted(seqs) and len(set(seqs)) == len(seqs)


async def test_refusals(world: World, callcore: Start) -> None:
    await callcore()
    for user in ("ann", "bob", "cem"):
        await world.online(user, "phone")
    with pytest.raises(UserNotFound):
        await world.initiate("ann-phone", "nobody")
    call = (await world.initiate("ann-phone", "bob")).call
    with pytest.raises(AlreadyInCall):
        await world.initiate("ann-phone", "cem")
    with pytest.raises(UserUnavailable):
        await world.initiate("cem-phone", "bob")
    with pytest.raises(InvalidState):
        await world.accept("ann-phone", call)
    with pytest.raises(CallNotFound):
        await world.accept("cem-phone", call)
    with pytest.raises(CallNotFound):
        await world.end("ann-phone", "no such call")
    await world.reject("bob-phone", call)
    with pytest.raises(CallNotFound):
        await world.accept("bob-phone", call)


async def test_a_refused_initiate_reserves_no_user(world: World, callcore: Start) -> None:
    await callcore()
    for user in ("ann", "bob", "cem"):
        await world.online(user, "phone")
    await world.initiate("bob-phone", "cem")
    with pytest.raises(UserUnavailable):
        await world.initiate("ann-phone", "bob")
    assert not await world.reserved("ann")
    with pytest.raises(UserNotFound):
        await world.initiate("ann-phone", "zoe")
    assert not await world.reserved("ann") and not await world.reserved("zoe")


async def test_the_deadline_fires_on_another_instance(nats_url: str, world: World, callcore: Start) -> None:
    from contextlib import AsyncExitStack

    from services.callcore.app import start
    from services.callcore.settings import Settings

    await world.online("ann", "phone")
    await world.online("bob", "phone")
    async with AsyncExitStack() as first:
        settings = Settings.model_validate({"nats_url": nats_url, "ring_timeout_seconds": 2})
        await first.enter_async_context(start(settings, "cc-first"))
        await world.until(lambda: world.members.alive("callcore"))
        begin = time.monotonic()
        await world.initiate("ann-phone", "bob")
    await callcore()
    ended = await world.expect("ann-phone", "call:ended")
    assert ended.body["reason"] == "timeout" and ended.body["by"] == "server"
    assert 1.9 < time.monotonic() - begin < 6
    assert not await world.reserved("ann") and not await world.reserved("bob")


async def test_a_deadline_that_passed_without_an_instance_fires_at_start(
    nats_url: str, world: World, callcore: Start
) -> None:
    from services.callcore.app import start
    from services.callcore.settings import Settings

    await world.online("ann", "phone")
    await world.online("bob", "phone")
    settings = Settings.model_validate({"nats_url": nats_url, "ring_timeout_seconds": 1})
    async with start(settings, "cc-first"):
        await world.until(lambda: world.members.alive("callcore"))
        await world.initiate("ann-phone", "bob")
    await asyncio.sleep(1.5)
    assert not world.to("ann-phone", "call:ended")
    await callcore()
    assert (await world.expect("bob-phone", "call:ended")).body["reason"] == "timeout"


async def test_a_repeated_request_is_applied_once(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    first = await world.initiate("ann-phone", "bob", request_id="r1", call="c1")
    again = await world.initiate("ann-phone", "bob", request_id="r1", call="c1")
    assert first == again
    await world.accept("bob-phone", "c1", request_id="r2")
    await world.accept("bob-phone", "c1", request_id="r2")
    with pytest.raises(InvalidState):
        await world.accept("bob-phone", "c1", request_id="r3")
    await world.end("bob-phone", "c1", request_id="r4")
    await world.end("bob-phone", "c1", request_id="r4")
    with pytest.raises(CallNotFound):
        await world.end("bob-phone", "c1", request_id="r5")
    assert {s.body["reason"] for s in world.to("ann-phone", "call:ended")} == {"hangup"}


async def test_settling_redelivers_and_changes_nothing(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")

    async def told_again(session: str, event: str, count: int) -> None:
        await world.until(lambda: len(world.to(session, event)) == count)

    with pytest.raises(CallNotFound):
        await world.initiate("ann-phone", "bob", request_id="r1", call="c1", settle=True)
    assert not await world.reserved("ann") and not await world.reserved("bob")
    await world.initiate("ann-phone", "bob", request_id="r1", call="c1")
    assert (await world.initiate("ann-phone", "bob", request_id="r1", call="c1", settle=True)).call == "c1"
    await told_again("ann-phone", "call:initiated", 2)
    await told_again("bob-phone", "call:incoming", 2)

    with pytest.raises(CallNotFound):
        await world.accept("bob-phone", "c1", request_id="r2", settle=True)
    assert not world.to("ann-phone", "call:accepted")
    await world.accept("bob-phone", "c1", request_id="r2")
    await world.accept("bob-phone", "c1", request_id="r2", settle=True)
    for session in ("ann-phone", "bob-phone"):
        await told_again(session, "call:accepted", 2)

    with pytest.raises(CallNotFound):
        await world.end("ann-phone", "c1", request_id="r3", settle=True)
    await world.end("ann-phone", "c1", request_id="r3")
    await world.end("ann-phone", "c1", request_id="r3", settle=True)
    for session in ("ann-phone", "bob-phone"):
        await told_again(session, "call:ended", 2)


async def test_settling_glare_redelivers_the_call_that_was_accepted(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    await world.initiate("ann-phone", "bob", call="c1")
    await world.initiate("bob-phone", "ann", request_id="r2", call="c2")
    again = await world.initiate("bob-phone", "ann", request_id="r2", call="c2", settle=True)
    assert again.call == "c1"
    await world.until(lambda: len(world.to("ann-phone", "call:accepted")) == 2)
    with pytest.raises(CallNotFound):
        await world.initiate("bob-phone", "ann", request_id="r3", call="c3", settle=True)


async def test_a_reservation_whose_call_was_never_created_is_void_after_a_moment(
    world: World, callcore: Start
) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    stuck = Reservation(call="never", peer="zoe", since=int(time.time() * 1000))
    await world.calls.put(subjects.key_user("bob"), stuck.dump(), ABSENT)
    begin = time.monotonic()
    while True:
        try:
            call = (await world.initiate("ann-phone", "bob")).call
        except Exception:  # noqa: BLE001 - unavailable or busy, as long as the hold may still become a call
            assert time.monotonic() - begin < 8
            continue
        break
    await world.accept("bob-phone", call)


async def test_a_replica_that_is_behind_does_not_make_a_callee_unknown(
    world: World, callcore: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = Store.sessions

    def behind(store: Store, user: str, *, fresh: bool) -> asyncio.Future[tuple[Session, ...]]:
        if fresh:
            return sessions(store, user, fresh=True)
        nobody: asyncio.Future[tuple[Session, ...]] = asyncio.get_running_loop().create_future()
        nobody.set_result(())
        return nobody

    monkeypatch.setattr(Store, "sessions", behind)
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    await world.initiate("ann-phone", "bob")
    await world.expect("bob-phone", "call:incoming")


async def test_the_reconciler_ends_a_call_whose_session_is_gone(world: World, callcore: Start) -> None:
    await callcore(sweep_seconds=1)
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    await world.accept("bob-phone", call)
    await world.online("bob")  # and nobody said that he left
    ended = await world.expect("ann-phone", "call:ended")
    assert ended.body == {"callId": call, "by": "bob", "reason": "connection_lost", "seq": ended.body["seq"]}
    assert not await world.reserved("bob")


async def test_a_session_that_leaves_or_moves_takes_its_call_along(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    await world.accept("bob-phone", call)
    await world.attached("bob-phone")  # same address: nothing to do
    await world.left("bob-phone", "hangup")
    assert (await world.expect("ann-phone", "call:ended")).body["reason"] == "hangup"
    await world.left("bob-phone", "hangup")  # said twice
    assert len(world.to("ann-phone", "call:ended")) == 1


async def test_events_are_recorded_once(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    await world.initiate("ann-phone", "bob", request_id="r1", call="c1")
    await world.initiate("ann-phone", "bob", request_id="r1", call="c1")
    await world.accept("bob-phone", "c1")
    await world.end("bob-phone", "c1")
    js = world.bus.client.jetstream()
    async with asyncio.timeout(10):
        while (await js.stream_info("EVENTS")).state.messages < 3:
            await asyncio.sleep(0.05)
    consumer = await js.pull_subscribe("event.call.c1.>", stream="EVENTS")
    recorded = [msg.subject for msg in await consumer.fetch(3, timeout=30)]
    assert recorded == ["event.call.c1.initiated", "event.call.c1.accepted", "event.call.c1.ended"]


async def test_an_instance_in_charge_that_does_not_answer_is_done_without(
    world: World, callcore: Start
) -> None:
    await callcore()
    ghost = subjects.live("callcore", "ghost")
    world.bus.publish(ghost, Beat(version="0", started_at=0).dump())
    await world.until(lambda: "ghost" in world.members.alive("callcore"))
    call = next(c for c in (new_id() for _ in range(100)) if world.members.owner("callcore", c) == "ghost")
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    await world.initiate("ann-phone", "bob", call=call)
    await world.accept("bob-phone", call)
    with pytest.raises(InvalidState):
        await world.accept("bob-phone", call)
    await world.end("ann-phone", call)
    assert [s.event for s in world.to("bob-phone")] == ["call:incoming", "call:accepted", "call:ended"]


async def test_both_sides_of_a_glare_get_its_events_in_order(world: World, callcore: Start) -> None:
    for _ in range(3):
        await callcore()
    for n in range(30):
        await world.online(f"ann{n}", "phone")
        await world.online(f"bob{n}", "phone")
    pairs = [(f"ann{n}-phone", f"bob{n}") for n in range(30)] + [
        (f"bob{n}-phone", f"ann{n}") for n in range(30)
    ]
    replies = await asyncio.gather(*(world.initiate(session, to) for session, to in pairs))
    for n in range(30):
        assert replies[n].call == replies[n + 30].call
        for session in (f"ann{n}-phone", f"bob{n}-phone"):
            await world.expect(session, "call:accepted")
            seen = world.to(session)
            assert [s.event for s in seen][-1] == "call:accepted"
            seqs = [s.body["seq"] for s in seen]
            assert seqs == sorted(seqs), seen


async def test_the_deadline_of_a_call_that_is_answered_or_ended_does_not_fire(
    world: World, callcore: Start
) -> None:
    await callcore(ring_timeout_seconds=1)
    for user in ("ann", "bob", "cem", "dan", "eva", "fay"):
        await world.online(user, "phone")
    answered = (await world.initiate("ann-phone", "bob")).call
    await world.accept("bob-phone", answered)
    cancelled = (await world.initiate("cem-phone", "dan")).call
    await world.end("cem-phone", cancelled)
    unanswered = (await world.initiate("eva-phone", "fay")).call
    assert (await world.expect("eva-phone", "call:ended")).body["reason"] == "timeout"
    await asyncio.sleep(0.5)
    due = {"subjects_filter": "deadline.due.>"}
    fired = (await streams.api(world.bus, "STREAM.INFO.DEADLINES", due))["state"]["subjects"]
    assert fired == {subjects.deadline_due(subjects.RING, unanswered): 1}
