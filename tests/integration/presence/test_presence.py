"""Presence on a real nats-server: races, replacement, leaving, status, and what others are told."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from nats.aio.msg import Msg

from services.presence.app import start
from services.presence.model import Left
from services.presence.settings import Settings
from services.presence.store import Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import FORMING_MS, LeftRequest, Released, Reservation
from shared.contracts.presence import JoinRequest, LeaveRequest, Session, Sessions, StatusRequest
from shared.contracts.rpc import Done
from shared.errors import RateLimited, Unavailable
from shared.messaging.membership import Membership
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, Bucket
from tests.integration.presence.conftest import Gateway, Start

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

USER = "alice@example.com *"


async def sessions(bus: Bus, user: str = USER) -> tuple[Session, ...]:
    entry = await Bucket(bus, subjects.BUCKET_SESSIONS).get(subjects.key_user(user), fresh=True)
    return Sessions.model_validate_json(entry.value).sessions if entry.value else ()


async def hold(bus: Bus, user: str = USER) -> None:
    """A call takes the user."""
    await Bucket.create(bus, subjects.BUCKET_CALLS, replicas=1)
    value = Reservation(call="c1", peer="bob", since=now_ms()).dump()
    await Bucket(bus, subjects.BUCKET_CALLS).put(subjects.key_user(user), value, ABSENT)


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.02)


async def test_twenty_devices_at_once_on_two_processes(nats_url: str, bus: Bus, gw1: Gateway) -> None:
    environment = {**os.environ, "NATS_URL": nats_url, "SESSIONS_PER_USER": "20", "LOG_LEVEL": "warning"}
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", "services.presence", env=environment)
        for _ in range(2)
    ]
    try:
        members = Membership(bus, "presence")
        await members.start()

        async def both() -> bool:
            return len(members.alive("presence")) == 2

        await eventually(both, 20)
        replies = await asyncio.gather(*(gw1.join(USER, f"s{n}", device=f"d{n}") for n in range(20)))
        stored = await sessions(bus)
        assert {s.session for s in stored} == {r.session for r in replies}
        assert {s.device for s in stored} == {f"d{n}" for n in range(20)}
        with pytest.raises(RateLimited):
            await gw1.join(USER, "one-more")

        await asyncio.gather(*(gw1.leave(USER, r.session, f"s{n}") for n, r in enumerate(replies)))
        assert await sessions(bus) == ()
        assert await gw1.status(USER) == (False, False)
        await members.stop()
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [await process.wait() for process in processes] == [0, 0]


async def test_a_lost_race_repeats_the_decision(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence()
    first = await gw1.join(USER, "s1")
    bucket, key = Bucket(bus, subjects.BUCKET_SESSIONS), subjects.key_user(USER)
    seen: list[int] = []

    def decide(record: Sessions | None) -> Left:
        assert record is not None
        seen.append(len(record.sessions))
        new = record.sessions[0].model_copy(update={"session": "mine"})
        return Left(Sessions(user=USER, sessions=(*record.sessions, new)), moved=False)

    async def change_behind() -> None:
        """Somebody else writes between the read and the write."""
        entry = await bucket.get(key, fresh=True)
        assert entry.value
        other = (await sessions(bus))[0].model_copy(update={"session": "theirs"})
        record = Sessions(user=USER, sessions=(*(await sessions(bus)), other))
        await bucket.put(key, record.dump(), entry.revision)

    store = Store(bus)
    original, raced = store._sessions.put, False

    async def put(key: str, value: bytes, revision: int) -> int:
        nonlocal raced
        if not raced:
            raced = True
            await change_behind()
        return await original(key, value, revision)

    store._sessions.put = put  # type: ignore[assignment, method-assign]
    await store.change(USER, decide)
    assert seen == [1, 2]
    assert [s.session for s in await sessions(bus)] == [first.session, "theirs", "mine"]


async def test_a_device_that_joins_again_replaces_its_session(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway
) -> None:
    await presence()
    orders = await bus.client.subscribe(subjects.control_all("gw1"))
    old = await gw1.join(USER, "s1", device="phone")
    new = await gw2.join(USER, "s2", device="phone")
    assert (new.session, new.resumed) == (old.session, False)
    assert new.resume_token != old.resume_token
    order = await orders.next_msg(2)
    assert subjects.parse_control(order.subject) == (old.session, "replaced")
    assert order.data == b"s1"

    # The old socket closes now; its leave is not about the session any more.
    await gw1.leave(USER, old.session, "s1", reason="connection_lost")
    assert [(s.gateway, s.socket) for s in await sessions(bus)] == [("gw2", "s2")]
    await gw2.leave(USER, new.session, "s2")
    assert await sessions(bus) == ()


async def test_resume_on_another_gateway(bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway) -> None:
    await presence()
    first = await gw1.join(USER, "s1")
    second = await gw2.join(USER, "s2", resume=first)
    assert (second.session, second.resumed) == (first.session, True)

    async def heard(msg: Msg) -> None:
        await msg.respond(subjects.YES)

    await bus.subscribe(subjects.control_all("gw2"), heard)
    stale = await gw1.join(USER, "s3", resume=first)
    assert stale.session != first.session
    assert not stale.resumed
    assert len(await sessions(bus)) == 2


async def test_single_policy(bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway) -> None:
    await presence(session_policy="single")
    orders = await bus.client.subscribe(subjects.control_all("gw1"))
    first = await gw1.join(USER, "s1", device="phone")
    second = await gw2.join(USER, "s2", device="tab")
    assert first.session == second.session
    assert len(await sessions(bus)) == 1
    assert (await orders.next_msg(2)).data == b"s1"


async def test_status_is_right_at_once(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence()
    await presence()
    assert await gw1.status(USER) == (False, False)  # without the bucket of call control
    joined = await gw1.join(USER, "s1")
    assert not joined.busy
    assert await gw1.status(USER) == (True, False)
    await hold(bus)
    assert await gw1.status(USER) == (True, True)
    assert (await gw1.join(USER, "s2")).busy
    calls, key = Bucket(bus, subjects.BUCKET_CALLS), subjects.key_user(USER)
    await calls.delete(key, (await calls.get(key, fresh=True)).revision)
    assert await gw1.status(USER) == (True, False)


async def test_a_reservation_counts_only_if_its_call_lives_or_can_be_created(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    """Placing a call may have been given up by an instance that died with both users held."""
    await presence()
    await gw1.join(USER, "s1")
    await Bucket.create(bus, subjects.BUCKET_CALLS, replicas=1)
    calls = Bucket(bus, subjects.BUCKET_CALLS)
    old = Reservation(call="c1", peer="bob", since=now_ms() - FORMING_MS - 1)
    await calls.set(subjects.key_user(USER), old.dump())
    assert await gw1.status(USER) == (True, False)
    await calls.set(subjects.key_user(USER), old.model_copy(update={"since": now_ms()}).dump())
    assert await gw1.status(USER) == (True, True)
    await calls.set(subjects.key_user(USER), old.dump())
    for state, is_in_call in (("ringing", True), ("accepted", True), ("ended", False)):
        await calls.set(subjects.key_call("c1"), b'{"call":"c1","state":"%b"}' % state.encode())
        assert await gw1.status(USER) == (True, is_in_call), state


async def test_a_repeated_leave_that_ended_a_call_is_forwarded_again(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    """The user has been let go, but nobody may have heard of it; another request of the same user is not concerned."""
    await presence()
    heard: list[str] = []

    async def on_left(msg: object) -> None:
        heard.append(LeftRequest.model_validate_json(msg.data).request_id)  # type: ignore[attr-defined]
        await msg.respond(b'{"ok":true,"result":{}}')  # type: ignore[attr-defined]

    joined = await gw1.join(USER, "s1")
    await Bucket.create(bus, subjects.BUCKET_CALLS, replicas=1)
    calls, key = Bucket(bus, subjects.BUCKET_CALLS), subjects.key_user(USER)
    revision = await calls.set(key, Reservation(call="c1", peer="bob", since=now_ms()).dump())
    await calls.delete(key, revision, Released(call="c1", cause="leave 1").dump())
    await bus.subscribe(subjects.rpc("calls", "left"), on_left)
    leave = LeaveRequest(
        request_id="leave 1", user=USER, session=joined.session, gateway="gw1", socket="s1", reason="hangup"
    )
    client = RpcClient(bus, timeout=2)
    await client.ask("presence", "leave", leave.model_copy(update={"request_id": "leave 2"}), Done)
    assert not heard
    await client.ask("presence", "leave", leave, Done)
    assert heard == ["leave 1"]


async def test_two_tries_of_call_control_end_before_the_leave_that_they_are_for(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    await presence(request_timeout_seconds=30)
    heard: list[LeftRequest] = []

    async def hang(msg: object) -> None:
        heard.append(LeftRequest.model_validate_json(msg.data))  # type: ignore[attr-defined]

    joined = await gw1.join(USER, "s1")
    await hold(bus)
    await bus.subscribe(subjects.rpc("calls", "left"), hang)
    leave = LeaveRequest(
        request_id="r", user=USER, session=joined.session, gateway="gw1", socket="s1", reason="hangup"
    )
    client = RpcClient(bus, timeout=2)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await client.ask("presence", "leave", leave, Done)
    assert asyncio.get_running_loop().time() - begun < 1.95, "presence itself has said so"
    assert [each.attempt for each in heard] == [1, 2]


async def test_call_control_is_notified_of_a_leave(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence()
    heard: list[LeftRequest] = []

    async def on_left(msg: object) -> None:
        heard.append(LeftRequest.model_validate_json(msg.data))  # type: ignore[attr-defined]
        await msg.respond(b'{"ok":true,"result":{}}')  # type: ignore[attr-defined]

    joined = await gw1.join(USER, "s1")
    other = await gw1.join(USER, "s2")
    await gw1.leave(USER, other.session, "s2")
    await hold(bus)
    with pytest.raises(Unavailable):  # nobody answers for call control
        await gw1.leave(USER, joined.session, "s1", reason="connection_lost")

    await bus.subscribe(subjects.rpc("calls", "left"), on_left)
    await gw1.leave(USER, joined.session, "s1", reason="connection_lost")
    assert [(h.user, h.session, h.gateway, h.reason) for h in heard] == [
        (USER, joined.session, "gw1", "connection_lost")
    ]


async def test_a_request_that_comes_too_late_is_not_acted_on(bus: Bus, presence: Start) -> None:
    await presence()
    late = JoinRequest(request_id="r", user=USER, gateway="gw1", socket="s1", expires_at=now_ms() - 1)
    with pytest.raises(Unavailable):
        await bus.request(subjects.rpc("presence", "join"), late.dump(), timeout=0.3)
    assert await sessions(bus) == ()


async def test_what_happened_is_recorded_once(bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway) -> None:
    await presence()
    first = await gw1.join(USER, "s1", device="phone")
    await gw1.join(USER, "s1", device="phone")
    await gw2.join(USER, "s2", device="phone")
    await gw2.leave(USER, first.session, "s2")
    await gw2.leave(USER, first.session, "s2")
    consumer = await bus.client.jetstream().subscribe(subjects.event_user(USER, "*"), ordered_consumer=True)
    events = []
    for _ in range(3):
        msg = await consumer.next_msg(2)
        body = json.loads(msg.data)
        assert (body["userId"], body["sessionId"]) == (USER, first.session)
        assert abs(body["at"] - now_ms()) < 60_000
        events.append((msg.subject.rpartition(".")[2], body["gateway"]))
    assert events == [("joined", "gw1"), ("resumed", "gw2"), ("left", "gw2")]
    with pytest.raises(TimeoutError):
        await consumer.next_msg(0.2)


async def test_it_says_goodbye_when_it_stops(nats_url: str, bus: Bus, gw1: Gateway) -> None:
    members = Membership(bus, "presence")
    await members.start()
    async with start(Settings(nats_url=nats_url), "presence-x"):
        assert await members.wait_for("presence", 30)
        assert await gw1.status(USER) == (False, False)

    async def gone() -> bool:
        return members.alive("presence") == ()

    await eventually(gone, 30)
    with pytest.raises(Unavailable):
        await gw1.status(USER)
    await members.stop()


async def test_an_instance_that_stops_answers_received_requests(nats_url: str, bus: Bus) -> None:
    settings = Settings(nats_url=nats_url)
    stopped = asyncio.Event()
    unanswered = 0

    async def ask_on(user: str) -> None:
        """Ask for as long as somebody stops, and once more; no request is tried again."""
        nonlocal unanswered
        query = StatusRequest(request_id="r", user=user, asker=user).dump()
        try:
            while not stopped.is_set():
                await bus.request(subjects.rpc("presence", "status"), query, timeout=30)
        except Unavailable:
            unanswered += 1

    async with start(settings, "presence-stays"):
        async with AsyncExitStack() as others:
            for n in range(4):
                await others.enter_async_context(start(settings, f"presence-goes-{n}"))
            askers = [asyncio.create_task(ask_on(f"u{n}")) for n in range(100)]
            await asyncio.sleep(0.2)
        stopped.set()
        await asyncio.gather(*askers)
    assert unanswered == 0


async def test_a_new_user_is_not_read(presence: Start, bus: Bus, gw1: Gateway) -> None:
    await presence()
    asked: list[str] = []
    for subject in ("$JS.API.STREAM.MSG.GET.KV_sessions", "$JS.API.DIRECT.GET.KV_sessions.>"):
        await bus.subscribe_direct(subject, lambda subject, *_: asked.append(subject))
    joined = await gw1.join(USER, "s1")
    await bus.flush()
    assert not asked
    assert [s.session for s in await sessions(bus)] == [joined.session]


async def test_a_user_with_a_session_is_read_and_no_other_session_noted(
    presence: Start, bus: Bus, gw1: Gateway
) -> None:
    await presence()
    phone = await gw1.join(USER, "s1", device="phone")
    tablet = await gw1.join(USER, "s2", device="tablet")
    again = await gw1.join(USER, "s3", device="phone")
    assert again.session == phone.session and again.continued
    assert {s.session for s in await sessions(bus)} == {phone.session, tablet.session}
    noted = {session for session, _ in await Store(bus).at("gw1")}
    live = Bucket(bus, subjects.BUCKET_SESSIONS)
    there = {s for s in noted if (await live.get(subjects.key_at("gw1", s, USER), fresh=True)).value}
    assert there == {phone.session, tablet.session}
