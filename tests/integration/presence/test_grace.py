"""Graces and leases on a real nats-server: they begin, they end, once, on whichever instance is there."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.msg import Msg

from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import LeftRequest, Reservation
from shared.contracts.presence import LEASE_SECONDS, Session, Sessions
from shared.contracts.rpc import Done, Reply
from shared.messaging.timers import set_deadline
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, Bucket
from signalling.run.nats_server import EmbeddedNats
from tests.integration.presence.conftest import Gateway, Start

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

USER = "alice@example.com *"


async def sessions(bus: Bus, user: str = USER) -> tuple[Session, ...]:
    entry = await Bucket(bus, subjects.BUCKET_SESSIONS).get(subjects.key_user(user), fresh=True)
    return Sessions.model_validate_json(entry.value).sessions if entry.value else ()


async def index(bus: Bus, gateway: str) -> list[str]:
    """The keys of a gateway's sessions that have a value."""
    bucket = Bucket(bus, subjects.BUCKET_SESSIONS)
    keys = await bucket.keys(subjects.key_at_all(gateway))
    return [key for key in keys if (await bucket.get(key, fresh=True)).value]


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.02)


async def lefts(bus: Bus, *, deaf: int = 0) -> list[LeftRequest]:
    """What call control is told, which holds the user; the first ``deaf`` times it does not answer well."""
    await Bucket.create(bus, subjects.BUCKET_CALLS, replicas=1)
    hold = Reservation(call="c1", peer="bob", since=now_ms())
    await Bucket(bus, subjects.BUCKET_CALLS).put(subjects.key_user(USER), hold.dump(), ABSENT)
    told: list[LeftRequest] = []

    async def left(msg: Msg) -> None:
        told.append(LeftRequest.model_validate_json(msg.data))
        if len(told) > deaf:
            await msg.respond(Reply(ok=True, result=Done().model_dump()).dump())

    await bus.subscribe(subjects.rpc("calls", "left"), left)
    return told


async def test_a_grace_from_its_beginning_to_its_end(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence(resume_window_seconds=1)
    await presence(resume_window_seconds=1)
    told = await lefts(bus)
    joined = await gw1.join(USER, "s1")
    assert await gw1.status(USER) == (True, True)
    await gw1.lose(USER, joined.session, "s1")
    assert await gw1.status(USER) == (False, True)
    (session,) = await sessions(bus)
    assert session.lost_at is not None

    async def gone() -> bool:
        return await sessions(bus) == ()

    await eventually(gone)
    assert session.lost_at + 1000 <= now_ms() < session.lost_at + 3000
    await asyncio.sleep(0.5)
    assert [(t.user, t.session, t.reason) for t in told] == [(USER, joined.session, "connection_lost")]
    assert await index(bus, "gw1") == []


async def test_call_control_is_notified_until_it_replies(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence(resume_window_seconds=1)
    told = await lefts(bus, deaf=2)  # both tries of the first time
    joined = await gw1.join(USER, "s1")
    await gw1.lose(USER, joined.session, "s1")

    async def heard() -> bool:
        return len(told) == 3

    await eventually(heard, 15)
    assert len({t.request_id for t in told}) == 1, "the same deed"


async def test_a_client_without_its_token_may_join_before_the_loss_is_reported(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway
) -> None:
    await presence()
    joined = await gw1.join(USER, "s1")
    assert (await gw2.join(USER, "s2", resume=joined)).resumed  # and is gone before it hears of it
    back = asyncio.create_task(gw1.join(USER, "s3", resume=joined))
    await asyncio.sleep(0.2)
    assert not back.done()
    await gw2.lose(USER, None, "s2", unheard=True)
    again = await back
    assert (again.resumed, again.session) == (True, joined.session)

    async def heard(msg: Msg) -> None:
        await msg.respond(subjects.YES)

    await bus.subscribe(subjects.control_all("gw1"), heard)
    thief = await gw2.join(USER, "s4", resume=joined)
    assert not thief.resumed and thief.session != joined.session


async def test_a_session_whose_end_was_not_notified_ends(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence(resume_window_seconds=1)
    await gw1.join(USER, "s1")  # its answer never came
    await gw1.lose(USER, None, "another socket")
    assert await gw1.status(USER) == (True, False)
    await gw1.lose(USER, None, "s1")

    async def gone() -> bool:
        return await sessions(bus) == () and await index(bus, "gw1") == []

    await eventually(gone)


async def test_a_session_that_is_resumed_stays(bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway) -> None:
    await presence(resume_window_seconds=1)
    joined = await gw1.join(USER, "s1")
    await gw1.lose(USER, joined.session, "s1")
    again = await gw2.join(USER, "s2", resume=joined)
    assert (again.resumed, again.session) == (True, joined.session)
    await gw1.lose(USER, joined.session, "s1")  # the old gateway notices late
    await asyncio.sleep(2)
    assert [s.session for s in await sessions(bus)] == [joined.session]
    assert await gw1.status(USER) == (True, False)
    assert await index(bus, "gw1") == [] and len(await index(bus, "gw2")) == 1


async def test_a_deadline_that_comes_too_early_waits(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence(resume_window_seconds=2)
    joined = await gw1.join(USER, "s1")
    await gw1.lose(USER, joined.session, "s1")
    await set_deadline(bus, subjects.GRACE, joined.session, now_ms(), USER.encode())
    await asyncio.sleep(1)
    assert len(await sessions(bus)) == 1

    async def gone() -> bool:
        return await sessions(bus) == ()

    await eventually(gone)


async def test_a_grace_ends_after_presence_and_nats_were_gone(
    nats_server: EmbeddedNats, presence: Start, bus: Bus, gw1: Gateway
) -> None:
    await presence(resume_window_seconds=1)
    joined = await gw1.join(USER, "s1")
    await gw1.lose(USER, joined.session, "s1")
    nats_server.kill()
    await asyncio.sleep(1.5)
    nats_server.start()

    async def gone() -> bool:
        return bus.connected and await sessions(bus) == ()

    await eventually(gone, 15)


async def test_a_silent_gateway_loses_its_sessions(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway
) -> None:
    await presence()
    await presence()
    assert not await gw1.renew()
    assert await gw1.renew()
    users = [f"user{n}" for n in range(30)]
    joined = await asyncio.gather(*(gw1.join(user, f"s-{user}") for user in users))

    async def alive(msg: Msg) -> None:
        await msg.respond(b"")

    await bus.subscribe(subjects.alive("gw2"), alive)
    await gw2.renew()
    moved = await gw2.join(users[0], "s2", resume=joined[0])
    assert moved.resumed

    async def lost() -> bool:
        found = [await sessions(bus, user) for user in users]
        return [s.lost_at is not None for (s,) in found] == [False] + [True] * 29

    await asyncio.sleep(LEASE_SECONDS - 1)
    assert not await lost()
    await eventually(lost, 5)
    assert not await gw1.renew(), "and it is told, should it come back"


async def test_a_gateway_that_replies_keeps_its_lease(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence()
    await gw1.renew()
    await gw1.join(USER, "s1")
    asked = asyncio.Event()

    async def alive(msg: Msg) -> None:
        asked.set()
        await msg.respond(b"")

    await bus.subscribe(subjects.alive("gw1"), alive)
    await asyncio.sleep(LEASE_SECONDS - 1)  # or presence would not even ask, being new here
    await asyncio.wait_for(asked.wait(), 10)
    await asyncio.sleep(0.3)
    assert (await sessions(bus))[0].lost_at is None
    assert await gw1.renew()


async def test_a_gateway_that_stops_leaves_nothing_behind(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence()
    await gw1.renew()
    joined = [await gw1.join(f"user{n}", f"s{n}") for n in range(3)]
    assert len(joined) == 3
    await gw1.renew(leaving=True)

    async def lost() -> bool:
        found = [(await sessions(bus, f"user{n}"))[0] for n in range(3)]
        return all(s.lost_at is not None for s in found)

    await eventually(lost, 3)
