"""What clients say reaches the right service, and the answers agree."""

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from services.gateway.app import start
from services.gateway.settings import Settings
from shared import subjects
from shared.clock import now_ms
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start


async def test_join(gateway: Start, connect: Connect, services: Services) -> None:
    url = await gateway(ice_servers=({"urls": "stun:x"},))
    alice = await connect(url)
    ack = await alice.ok("user:join", {"userId": "alice", "deviceId": "d"})
    joined = await alice.expect("user:joined")
    assert ack == {"ok": True, **joined}
    assert joined.pop("seq") > 0
    assert joined == {
        "userId": "alice", "socketId": alice.socket_id, "sessionId": f"s-{alice.socket_id}",
        "resume": {"token": "token", "windowSeconds": 30}, "iceServers": [{"urls": "stun:x"}], "resumed": False,
    }  # fmt: skip
    request = await services.wait_for("join")
    assert (request["user"], request["gateway"], request["device"]) == ("alice", GATEWAY, "d")
    assert "attached" not in services.verbs()
    await alice.ok("user:join", {"userId": "alice"})
    await alice.expect("user:joined")
    await alice.refused("user:join", {"userId": "bob"}, code="unauthorized")


async def test_turn_credentials_with_the_join_and_when_asked_for(gateway: Start, connect: Connect) -> None:
    url = await gateway(turn_urls=("turn:t",), turn_secret="s", turn_ttl_seconds=60)
    alice = await connect(url)
    await alice.refused("ice:servers", {}, code="not_authenticated")
    before = now_ms()
    await alice.ok("user:join", {"userId": "alice"})
    joined = await alice.expect("user:joined")
    assert before + 59_000 <= joined["iceExpiresAt"] <= now_ms() + 60_000
    ack = await alice.ok("ice:servers", {})
    told = await alice.expect("ice:servers")
    assert ack == {"ok": True, **told}
    (turn,) = told["iceServers"]
    assert turn["urls"] == ["turn:t"] and turn["credential"]
    assert turn["username"] == f"{told['expiresAt'] // 1000}:alice"
    assert told["expiresAt"] >= joined["iceExpiresAt"]
    for args in ((), (None,)):
        ack = await alice.ask("ice:servers", *args)
        assert ack == {"ok": True, **await alice.expect("ice:servers")}
    await alice.refused("ice:servers", 7, code="bad_request")


async def test_a_busy_user_who_joins_is_attached_after_user_joined(
    gateway: Start, connect: Connect, services: Services
) -> None:
    services.answers["join"] = {
        "session": "s1",
        "resumeToken": "t",
        "since": 1,
        "resumed": False,
        "busy": True,
    }
    alice = await connect(await gateway(), "alice")
    request = await services.wait_for("attached")
    assert (request["user"], request["session"], request["gateway"]) == ("alice", "s1", GATEWAY)
    assert alice.session == "s1"


FORWARDED: list[tuple[str, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = [
    ("call:accept", {"callId": "c", "from": "alice"}, "accept", {"call": "c"}, {"callId": "c"}),
    ("call:reject", {"callId": "c", "reason": "no"}, "reject", {"call": "c", "reason": "no"}, {"callId": "c"}),
    ("call:end", {"callId": "c", "reason": "no"}, "end", {"call": "c", "reason": "no"}, {"callId": "c"}),
    ("user:status", {"userId": "bob"}, "status", {"user": "bob"},
     {"userId": "bob", "isOnline": True, "isInCall": False}),
    ("call:initiate", {"to": "bob", "callType": "audio", "metadata": [1]}, "initiate",
     {"to": "bob", "callType": "audio", "metadata": [1]}, {"to": "bob", "expiresAt": 1, "expiresInMs": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("event", "payload", "verb", "wanted", "answer"), FORWARDED)
async def test_events_are_forwarded(
    gateway: Start, connect: Connect, services: Services,
    event: str, payload: dict[str, Any], verb: str, wanted: dict[str, Any], answer: dict[str, Any],
) -> None:  # fmt: skip
    alice = await connect(await gateway(), "alice")
    ack = await alice.ok(event, payload)
    assert ack.items() >= answer.items()
    request = await services.wait_for(verb)
    assert request.items() >= wanted.items()
    if verb != "status":
        assert (request["user"], request["session"], request["gateway"]) == ("alice", alice.session, GATEWAY)
    if verb == "initiate":
        assert ack["callId"] == request["call"]


async def test_refusals_reach_event_and_acknowledgement_alike(
    gateway: Start, connect: Connect, services: Services
) -> None:
    alice = await connect(await gateway(), "alice")
    services.answers["initiate"] = ("user_not_found", "User not found")
    error = await alice.refused("call:initiate", {"to": "bob", "callType": "audio"})
    assert error == {"code": "user_not_found", "message": "User not found", "retryable": False}
    await alice.refused("call:initiate", {"to": "alice", "callType": "audio"}, code="bad_request")
    await alice.refused("no:such", {}, code="bad_request")
    stranger = await connect(await gateway_url(alice))
    await stranger.refused("call:accept", {}, code="not_authenticated")
    await stranger.refused("user:join", {}, code="user_id_required")


async def gateway_url(client: Any) -> str:
    return str(client._ws._response.url.origin()).replace("ws:", "http:")


async def test_services_that_do_not_reply_are_unavailable(
    gateway: Start, connect: Connect, services: Services
) -> None:
    alice = await connect(await gateway(), "alice")
    services.slow["accept"] = 1.2
    error = await alice.refused("call:accept", {"callId": "c"}, code="unavailable")
    assert error["retryable"] is True


async def test_one_after_the_other(gateway: Start, connect: Connect, services: Services) -> None:
    alice = await connect(await gateway(), "alice")
    services.slow["accept"] = 0.2
    await alice.emit("call:accept", {"callId": "first"})
    await alice.ok("call:end", {"callId": "second"})
    assert services.verbs()[-2:] == ["accept", "end"]


@pytest.mark.parametrize("purposely", [True, False])
async def test_leaving(gateway: Start, connect: Connect, services: Services, *, purposely: bool) -> None:
    alice = await connect(await gateway(), "alice")
    await (alice.disconnect() if purposely else alice.tear())
    request = await services.wait_for("leave" if purposely else "lost")
    assert (request["socket"], request["session"]) == (alice.socket_id, alice.session)
    assert request.get("reason") == ("hangup" if purposely else None)
    assert ("lost" if purposely else "leave") not in services.verbs()


async def test_a_socket_that_breaks_while_joining_is_lost(
    gateway: Start, connect: Connect, services: Services
) -> None:
    services.slow["join"] = 0.3
    alice = await connect(await gateway())
    await alice.emit("user:join", {"userId": "alice"})
    await services.wait_for("join")
    await alice.tear()
    assert (await services.wait_for("lost"))["session"] == f"s-{alice.socket_id}"


async def test_sockets_that_join_in_one_tick_are_counted(
    gateway: Start, connect: Connect, services: Services
) -> None:
    url = await gateway(connections_per_user=3, request_timeout_seconds=2)
    services.slow["join"] = 0.3
    clients = [await connect(url) for _ in range(8)]
    acks = await asyncio.gather(*(client.ask("user:join", {"userId": "alice"}) for client in clients))
    assert sorted(ack["ok"] for ack in acks) == [False] * 5 + [True] * 3
    assert {ack["error"]["code"] for ack in acks if not ack["ok"]} == {"rate_limited"}
    services.answers["join"] = ("unavailable", "not now")
    for _ in range(5):
        await clients[acks.index(next(ack for ack in acks if not ack["ok"]))].ask(
            "user:join", {"userId": "bob"}
        )
    del services.answers["join"]
    other = await connect(url)
    await other.ok("user:join", {"userId": "bob"})  # what came to nothing does not count


async def test_a_leave_is_retried_until_presence_replies(
    gateway: Start, connect: Connect, services: Services
) -> None:
    alice = await connect(await gateway(), "alice")
    services.answers["leave"] = ("unavailable", "Temporarily unavailable")
    await alice.disconnect()
    async with asyncio.timeout(5):
        while services.verbs().count("leave") < 2:
            await asyncio.sleep(0.02)
    services.answers["leave"] = {}
    await asyncio.sleep(1)
    heard = services.verbs().count("leave")
    await asyncio.sleep(1)
    assert services.verbs().count("leave") == heard


async def test_replaced(gateway: Start, connect: Connect, services: Services, bus: Bus) -> None:
    alice = await connect(await gateway(), "alice")
    bus.publish(subjects.control(GATEWAY, alice.session, "replaced"), b"another-socket")
    await alice.ok("user:status", {"userId": "alice"})
    bus.publish(subjects.control(GATEWAY, alice.session, "replaced"), alice.socket_id.encode())
    assert await alice.expect("session:replaced") == {"sessionId": alice.session}
    await alice.expect_closed()


async def test_replaced_while_it_joins(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    """A socket that another one overtakes is told that, and not that its user has yet to join."""
    alice = await connect(await gateway())
    services.slow["join"] = 0.3
    joining = asyncio.create_task(alice.refused("user:join", {"userId": "alice"}, code="invalid_state"))
    await services.wait_for("join")
    session = f"s-{alice.socket_id}"
    bus.publish(subjects.control(GATEWAY, session, "replaced"), alice.socket_id.encode())
    assert await alice.expect("session:replaced") == {"sessionId": session}
    error = await joining
    assert error["message"] == "Another connection has taken the session over"
    await alice.expect_closed()


async def test_messages_are_delivered_unchanged(
    gateway: Start, connect: Connect, bus: Bus, services: Services
) -> None:
    alice = await connect(await gateway(), "alice")
    for n in range(500):
        bus.publish(subjects.deliver(GATEWAY, alice.session, "ice:candidate"), b'{"n":%d,"seq":1}' % n)
    got = [await alice.expect("ice:candidate") for _ in range(500)]
    assert [payload["n"] for payload in got] == list(range(500))


async def test_a_call_event_is_sent_once(
    gateway: Start, connect: Connect, bus: Bus, services: Services
) -> None:
    alice = await connect(await gateway(), "alice")
    for event, call, seq in (
        ("call:incoming", "c1", 1),
        ("call:incoming", "c1", 2),
        ("call:incoming", "c2", 3),
        ("call:ended", "c1", 4),
        ("call:accepted", "c2", 5),
        ("call:ended", "c1", 6),
        ("call:accepted", "c2", 7),
        ("call:ended", "c2", 8),
    ):
        payload = b'{"callId":"%s","seq":%d}' % (call.encode(), seq)
        bus.publish(subjects.deliver(GATEWAY, alice.session, event), payload)
    await alice.expect("call:ended", callId="c2")
    heard = [r.data["seq"] for r in alice.inbox.all if r.event.startswith("call:")]
    assert heard == [1, 3, 4, 5, 8]


async def test_a_request_without_an_answer_is_settled(
    gateway: Start, connect: Connect, services: Services
) -> None:
    """Its client has been told ``unavailable``; if it was done all the same, everybody is to be told."""
    alice = await connect(await gateway(request_timeout_seconds=0.2), "alice")
    services.slow["accept"] = 1.0
    assert (await alice.refused("call:accept", {"callId": "c1"}))["code"] == "unavailable"
    services.slow.clear()
    async with asyncio.timeout(5):
        while not (settled := [r for verb, r in services.asked if verb == "accept" and r.get("settle")]):
            await asyncio.sleep(0.02)
    first = await services.wait_for("accept")
    assert settled[0]["requestId"] == first["requestId"] and settled[0]["call"] == "c1"


async def test_a_call_set_up_without_a_reply_is_settled_at_once_and_again(
    gateway: Start, connect: Connect, services: Services
) -> None:
    """Both users are to be free; whoever comes back late may still have accepted the peer's call (glare)."""
    alice = await connect(await gateway(request_timeout_seconds=1), "alice")
    services.answers["initiate"] = ("unavailable", "Temporarily unavailable")
    assert (await alice.refused("call:initiate", {"to": "bob", "callType": "audio"}))["code"] == "unavailable"
    services.answers["initiate"] = ("call_not_found", "Call not found or expired")
    told, loop = asyncio.get_running_loop().time(), asyncio.get_running_loop()

    def settled() -> list[dict[str, Any]]:
        return [r for verb, r in services.asked if verb == "initiate" and r.get("settle")]

    async with asyncio.timeout(5):
        while not settled():
            await asyncio.sleep(0.01)
        assert loop.time() - told < 0.9, "not only when nobody can do it any more"
        while len(settled()) < 2:
            await asyncio.sleep(0.01)
    first = await services.wait_for("initiate")
    assert {(r["requestId"], r["call"]) for r in settled()} == {(first["requestId"], first["call"])}


async def test_a_request_that_was_not_sent_is_not_settled(
    gateway: Start, connect: Connect, services: Services, nats_server: EmbeddedNats
) -> None:
    alice = await connect(await gateway(request_timeout_seconds=0.2), "alice")
    nats_server.kill()
    assert (await alice.refused("call:end", {"callId": "c1"}))["code"] == "unavailable"
    nats_server.start()
    await asyncio.sleep(2)
    assert "end" not in services.verbs()


async def test_ready_only_with_everything_it_needs(nats_url: str, bus: Bus) -> None:
    port = _free()
    config = Settings.model_validate({"nats_url": nats_url, "port": port})
    async with start(config, GATEWAY), aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
            body = await answer.json()
            assert answer.status == 503 and len(body["missing"]) == 2
            assert "/" not in answer.headers["Server"]
        async with http.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == 200
        async with http.get(f"http://127.0.0.1:{port}/nothing") as answer:
            assert answer.status == 404 and (await answer.json())["ok"] is False


async def test_ready(gateway: Start) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http, asyncio.timeout(5):
        while True:
            async with http.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.02)


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
