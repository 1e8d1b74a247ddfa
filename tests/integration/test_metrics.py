"""What each service says at /metrics, while things happen to it. All of them run in this process, each with its own."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from shared.observability import metrics
from shared.token_bucket import Rate
from signalling.run.nats_server import EmbeddedNats
from tests.integration.gateway.conftest import ready
from tests.support.cluster import free_port
from tests.support.raw_client import RawClient
from tests.support.scrape import Scraped, scrape

SETTINGS: dict[str, dict[str, Any]] = {
    "presence": {"resume_window_seconds": 2, "sessions_per_user": 2},
    "callcore": {
        "sweep_seconds": 1,
        "rings_per_caller": Rate(3, 60),
        "ring_backoff_seconds": 0,
        "resume_window_seconds": 2,
    },
    "gateway": {"drain_seconds": 0, "resume_window_seconds": 2, "strikes_max": 3, "join_timeout_seconds": 3},
}
OFFER = {"offer": {"type": "offer", "sdp": "v=0"}}


class System:
    """Services in this process, and where they say what they do."""

    def __init__(self, nats_url: str) -> None:
        self._nats_url = nats_url
        self._stack = AsyncExitStack()
        self.metrics: dict[str, str] = {}
        self.urls: list[str] = []
        self.clients: list[RawClient] = []

    async def start(self, name: str, **settings: Any) -> None:
        """Start ``<service>-<number>``."""
        service = name.partition("-")[0]
        port, metrics_port = free_port(), free_port()
        config = {"nats_url": self._nats_url, "port": port, "metrics_port": metrics_port}
        values = {**config, **SETTINGS[service], **settings}
        cls = import_module(f"services.{service}.settings").Settings
        app = import_module(f"services.{service}.app")
        self.metrics[name] = f"http://127.0.0.1:{metrics_port}/metrics"
        await self._stack.enter_async_context(app.start(cls.model_validate(values), name))
        if service == "gateway":
            self.urls.append(f"http://127.0.0.1:{port}")

    async def stop(self) -> None:
        for client in self.clients:
            await client.close()
        await self._stack.aclose()

    async def scrape(self, name: str) -> Scraped:
        return await scrape(self.metrics[name])

    async def value(self, sample: str, **labels: str) -> float:
        """The sum over all instances."""
        return sum([(await self.scrape(name)).value(sample, **labels) for name in self.metrics])

    async def until(self, wanted: float, sample: str, **labels: str) -> None:
        """Wait until it is that."""
        async with asyncio.timeout(10):
            while await self.value(sample, **labels) != wanted:
                await asyncio.sleep(0.05)

    async def join(self, user: str, gateway: int = 0, **more: Any) -> RawClient:
        client = RawClient(user)
        self.clients.append(client)
        await client.connect(self.urls[gateway])
        await client.ok("user:join", {"userId": user, **more})
        client.joined = await client.expect("user:joined")  # type: ignore[attr-defined]
        return client


@pytest_asyncio.fixture
async def system(nats_url: str) -> AsyncIterator[System]:
    system = System(nats_url)
    try:
        for name in ("callcore-1", "presence-1", "presence-2", "gateway-1", "gateway-2"):
            await system.start(name)
        for url in system.urls:
            await ready(url)
        yield system
    finally:
        await system.stop()


async def call(a: RawClient, b: RawClient, to: str) -> str:
    """``a`` rings ``b``, who answers."""
    placed = await a.ok("call:initiate", {"to": to, "callType": "video"})
    await b.ok("call:accept", {"callId": placed["callId"]})
    await a.expect("call:accepted")
    return str(placed["callId"])


@pytest.mark.parametrize("name", ["gateway-1", "callcore-1", "presence-1"])
async def test_each_service_serves_what_it_declares(system: System, name: str) -> None:
    service = name.partition("-")[0]
    scraped = await system.scrape(name)
    own = {metric.name for metric in metrics.declared(import_module(f"services.{service}.metrics"))}
    common = {metric.name for metric in metrics.declared(import_module("shared.service.process_metrics"))}
    assert own <= scraped.names() <= own | common
    assert scraped.value("signalling_info", service=service, name=name) == 1
    assert scraped.value("signalling_ready") == scraped.value("signalling_nats_connected") == 1
    assert scraped.value("process_resident_memory_bytes") > 1e6
    # An increase needs the zero before it.
    streams = {stream for family, _, stream in scraped.labels() if family == "signalling_jetstream_refusals"}
    assert streams == {"KV_sessions", "KV_calls", "DELIVER", "EVENTS", "DEADLINES"}
    # Each start has counts of its own, though all are in this process.
    assert (await system.scrape("gateway-2")).value("signalling_sockets") == 0
    served = set().union(*[(await system.scrape(each)).names() for each in system.metrics])
    assert common <= served


async def test_a_call_is_counted_on_its_whole_way(system: System) -> None:
    alice, bob = await system.join("alice"), await system.join("bob", 1)
    assert await system.value("signalling_sockets") == await system.value("signalling_joined_sessions") == 2
    assert await system.value("signalling_connections", transport="websocket") == 2
    assert await system.value("signalling_joins_total", kind="new") == 2
    assert await system.value("signalling_session_changes_total", what="joined") == 2
    id_ = await call(alice, bob, "bob")
    await alice.ok("call:offer", {**OFFER, "from": "alice", "to": "bob", "callId": id_})
    candidates = 0

    async def candidate() -> None:
        nonlocal candidates
        payload = {"candidate": {"n": candidates}, "from": "alice", "to": "bob", "callId": id_}
        await alice.emit("ice:candidate", payload)
        candidates += 1

    for _ in range(5):  # the first by the slow path, the others by the fast path
        await candidate()
    async with asyncio.timeout(20):
        while not await system.value("signalling_outbox_relays"):  # they are kept for two seconds
            await candidate()
    for _ in range(candidates):
        await bob.expect("ice:candidate")
    await system.until(1, "signalling_calls", state="accepted")
    await bob.ok("call:end", {"callId": id_})
    await alice.expect("call:ended")
    gateway, callcore = await system.scrape("gateway-1"), await system.scrape("callcore-1")
    assert gateway.value("signalling_call_setup_seconds_count") == 1
    assert 0 < gateway.value("signalling_call_setup_seconds_sum") < 5
    assert gateway.value("signalling_event_seconds_count", event="call:initiate") == 1
    assert gateway.value("signalling_relays_total", kind="call:offer") == 1
    assert gateway.value("signalling_relays_total", kind="ice:candidate") == candidates
    assert gateway.value("signalling_relays_given_up_total") == 0
    assert gateway.value("signalling_request_seconds_count", service="calls", verb="initiate") == 1
    assert callcore.value("signalling_calls_placed_total", type="video") == 1
    assert callcore.value("signalling_calls_accepted_total") == 1
    assert callcore.value("signalling_calls_ended_total", outcome="answered", reason="hangup") == 1
    assert callcore.value("signalling_calls_ended_total") == 1
    assert callcore.value("signalling_ring_seconds_count", outcome="answered") == 1
    assert callcore.value("signalling_call_seconds_count") == 1
    assert callcore.value("signalling_requests_total", verb="accept", outcome="ok") == 1
    assert callcore.value("signalling_handling_seconds_count", verb="end") == 1
    assert callcore.value("signalling_kv_seconds_count", bucket="calls", operation="write") >= 5
    assert callcore.value("signalling_kv_seconds_count", bucket="sessions", operation="read") >= 2
    assert callcore.value("signalling_event_loop_lag_seconds_count") > 3
    assert callcore.value("signalling_nats_messages_total", direction="in") > 5
    await system.until(0, "signalling_calls")
    await system.until(0, "signalling_outbox_relays")
    await alice.disconnect()
    await system.until(1, "signalling_session_changes_total", what="left")
    assert await system.value("signalling_joined_sessions") == 1


async def test_what_came_of_a_call_that_nobody_answers_and_of_one_not_placed(system: System) -> None:
    alice, bob = await system.join("alice"), await system.join("bob")
    await alice.refused("call:initiate", {"to": "nobody", "callType": "audio"}, code="user_not_found")
    for reason in (None, "my_own_word"):
        placed = await alice.ok("call:initiate", {"to": "bob", "callType": "audio"})
        await alice.ok("call:end", {"callId": placed["callId"], **({"reason": reason} if reason else {})})
    placed = await alice.ok("call:initiate", {"to": "bob", "callType": "audio"})
    await bob.ok("call:reject", {"callId": placed["callId"]})
    await alice.refused("call:initiate", {"to": "bob", "callType": "audio"}, code="rate_limited")
    await alice.refused("no:such", {}, code="bad_request")
    await bob.refused("call:offer", {**OFFER, "from": "bob", "to": "eve"}, code="receiver_not_found")
    rejected = "signalling_rejections_total"
    assert await system.value(rejected, event="call:initiate", code="user_not_found") == 1
    assert await system.value(rejected, event="call:initiate", code="rate_limited") == 1
    assert await system.value(rejected, event="other", code="bad_request") == 1
    assert await system.value(rejected, event="call:offer", code="receiver_not_found") == 1
    assert await system.value(rejected) == 4
    ended = "signalling_calls_ended_total"
    await system.until(3, ended, outcome="unanswered")
    assert await system.value(ended, reason="cancelled") == 1
    assert await system.value(ended, reason="other") == await system.value(ended, reason="rejected") == 1
    assert await system.value("signalling_ring_seconds_count", outcome="unanswered") == 3
    assert await system.value("signalling_calls_accepted_total") == 0
    assert await system.value("signalling_limits_hit_total", limit="rings_per_caller") == 1
    assert await system.value("signalling_requests_total", verb="initiate", outcome="refused") == 1
    assert await system.value("signalling_requests_total", verb="initiate", outcome="error") == 1


def resume(client: RawClient) -> dict[str, Any]:
    joined = client.joined  # type: ignore[attr-defined]
    return {"sessionId": joined["sessionId"], "token": joined["resume"]["token"], "lastSeq": joined["seq"]}


async def test_sessions_in_their_grace_and_what_becomes_of_them(system: System) -> None:
    in_grace = "signalling_sessions_in_grace"
    alice, bob = await system.join("alice"), await system.join("bob")
    await asyncio.gather(alice.tear(), bob.tear())
    await system.until(2, in_grace)
    back = await system.join("alice", 1, resume=resume(alice))
    assert await system.value(in_grace) == 1
    assert await system.value("signalling_resumes_total", result="complete") == 1
    assert await system.value("signalling_joins_total", kind="resumed") == 1
    await system.until(0, in_grace)
    await system.until(1, "signalling_graces_expired_total")
    assert await system.value("signalling_session_changes_total", what="lost") == 2
    assert await system.value("signalling_deadlines_total", kind="grace", outcome="done") >= 1
    # One without a word of resuming, and one too late.
    await back.tear()
    await system.until(1, in_grace)
    back = await system.join("alice")
    assert await system.value("signalling_joins_total", kind="continued") == 1
    assert await system.value(in_grace) == 0
    await system.join("bob", resume=resume(bob))
    assert await system.value("signalling_resumes_total", result="gone") == 1
    third = RawClient("carol")
    system.clients.append(third)
    await third.connect(system.urls[0])
    await third.refused("user:join", {"userId": "", "resume": resume(back)}, code="user_id_required")
    assert await system.value("signalling_resumes_total", result="failed") == 0  # that was no join at all
    assert await system.value("signalling_joins_total") == 5
    assert await system.value("signalling_joined_sessions") == 2


async def test_limits_are_hit(system: System) -> None:
    for n in range(2):
        await system.join("alice", deviceId=f"device-{n}")
    other = RawClient("alice")
    system.clients.append(other)
    await other.connect(system.urls[0])
    resumed = {"sessionId": "s", "token": "t", "lastSeq": 0}
    more = {"userId": "alice", "deviceId": "device-3", "resume": resumed}
    await other.refused("user:join", more, code="rate_limited")
    hit = "signalling_limits_hit_total"
    assert await system.value(hit, limit="sessions_per_user") == 1
    assert await system.value("signalling_resumes_total", result="failed") == 1
    assert await system.value("signalling_unjoined_connections") == 1
    await system.until(1, hit, limit="join_timeout")
    assert await system.value("signalling_unjoined_connections") == 0
    bob = await system.join("bob")
    for _ in range(3):
        await bob.send("4nonsense")
    await system.until(1, hit, limit="strikes")
    assert await system.value(hit) == 3


async def test_many_joins_of_one_user_race(system: System) -> None:
    sockets = [RawClient("alice") for _ in range(8)]
    system.clients += sockets
    await asyncio.gather(*(client.connect(system.urls[n % 2]) for n, client in enumerate(sockets)))
    answers = await asyncio.gather(
        *(client.ask("user:join", {"userId": "alice", "deviceId": "d"}) for client in sockets)
    )
    # Each takes the device over from the one before; one that is overtaken while it still joins is told so.
    overtaken = [answer["error"]["code"] for answer in answers if not answer["ok"]]
    assert set(overtaken) <= {"invalid_state"} and len(overtaken) < len(sockets)
    conflicts = await system.value("signalling_kv_conflicts_total", bucket="sessions")
    assert 0 < await system.value("signalling_kv_retries_total", bucket="sessions") <= conflicts


async def test_nats_goes_and_comes_back(system: System, nats_server: EmbeddedNats) -> None:
    alice = await system.join("alice")
    nats_server.kill()
    await system.until(0, "signalling_nats_connected")
    await system.until(0, "signalling_ready")
    await alice.refused("user:status", {"userId": "bob"}, code="unavailable")
    assert (await system.scrape("gateway-1")).value("signalling_request_failures_total", verb="status") == 1
    nats_server.start()
    await system.until(5, "signalling_ready")
    await system.until(5, "signalling_nats_reconnects_total")
    assert await system.value("signalling_nats_errors_total", error="other") > 0
    # Its mailbox was in the memory of NATS: what the client may have missed is not known.
    await system.join("alice", 1, resume=resume(alice))
    assert await system.value("signalling_resumes_total", result="gap") == 1


async def test_a_loop_that_is_held_up_shows(system: System) -> None:
    await asyncio.sleep(0.2)
    time.sleep(0.4)  # all are in one process here
    await asyncio.sleep(0.05)
    scraped = await system.scrape("presence-1")
    lag = "signalling_event_loop_lag_seconds"
    assert scraped.value(f"{lag}_count") - scraped.value(f"{lag}_bucket", le="0.25") >= 1


async def test_no_label_holds_an_id(system: System) -> None:
    """After everything that has ids in it: joins, calls, relays, refusals, resumes, words of clients' own."""
    users = ["zebra-user", "yak-user"]
    alice, bob = [await system.join(user, deviceId=f"{user}-device") for user in users]
    id_ = await call(alice, bob, users[1])
    await alice.ok("call:offer", {**OFFER, "from": users[0], "to": users[1], "callId": id_})
    await alice.refused("call:accept", {"callId": "walrus"})
    await alice.refused("vulture:event", {"userId": users[0]})
    await alice.refused("call:initiate", {"to": "unicorn", "callType": "audio"})
    await bob.ok("call:end", {"callId": id_, "reason": "tapir_reason"})
    await bob.tear()
    again = await system.join(users[1], 1, resume=resume(bob))
    sessions = [client.joined["sessionId"] for client in (alice, bob)]  # type: ignore[attr-defined]
    sockets = [client.socket_id for client in (alice, bob, again)]
    tokens = [client.joined["resume"]["token"] for client in (alice, bob)]  # type: ignore[attr-defined]
    words = [
        *users,
        *sessions,
        *sockets,
        *tokens,
        id_,
        "walrus",
        "vulture",
        "unicorn",
        "tapir",
        "device-",
        "127.0.0",
    ]
    labels = set().union(*[(await system.scrape(name)).labels() for name in system.metrics])
    assert len(labels) > 100
    assert [label for label in labels for word in words if word in label[2]] == []
    assert ("signalling_rejections", "event", "other") in labels
    assert ("signalling_calls_ended", "reason", "other") in labels


async def test_clients_cannot_read_it(system: System) -> None:
    async with aiohttp.ClientSession() as http:
        for path in ("/metrics", "/metrics/", "//metrics", "/socket.io/../metrics", "/socket.io/metrics"):
            async with http.get(system.urls[0] + path) as answer:
                assert answer.status >= 400 and "signalling_" not in await answer.text()
        async with http.get(system.metrics["gateway-1"].replace("/metrics", "/readyz")) as answer:
            assert answer.status == 404  # and nothing else is served where metrics are


async def test_whoever_reads_does_not_keep_a_service_from_stopping(nats_url: str) -> None:
    system = System(nats_url)
    await system.start("presence-1")
    async with aiohttp.ClientSession() as http:
        async with http.get(system.metrics["presence-1"]) as answer:
            assert "signalling_ready 1.0" in await answer.text()
        begun = time.monotonic()  # the connection stays, for the next time
        await system.stop()
        assert time.monotonic() - begun < 1


async def test_without_a_port_nobody_listens_and_a_taken_one_is_told(nats_url: str) -> None:
    system = System(nats_url)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="address already in use"),
    ):
        await system.start("presence-1", metrics_port=taken.getsockname()[1])
    await system.start("presence-1", metrics_port=0)
    await system.stop()
