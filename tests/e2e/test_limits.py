"""Each limit is hit on real processes: the refusal, what goes on beside it, and that it is counted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from shared.observability.log_throttle import SECONDS as SAID_SECONDS
from tests.support import stored_records
from tests.support.cluster import Cluster
from tests.support.limit_metrics import limits_hit
from tests.support.phone import Phone
from tests.support.proxy import Proxy
from tests.support.raw_client import RawClient
from tests.support.scenario import end, ring, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

PER_ADDRESS, PER_USER, UNJOINED, IN_CALL = 8, 3, 30, 50
BACKOFF_SECONDS = 2
STATUS, CANDIDATES, REFUSALS, CALLER, CALLEE = 10, 40, 30, 4, 6
JOINS, JOINS_REFILL, JOINS_FREE = 15, 30, 10
REFILL = 300
RING_REFILL = 16
TIGHT = {
    "RATE_LIMIT": "on",
    "TRUSTED_PROXIES": "127.0.0.1",
    "CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS),
    "CONNECTIONS_PER_USER": str(PER_USER),
    "JOINS_PER_USER": f"{JOINS}/{JOINS_REFILL}",
    "UNJOINED_MAX": str(UNJOINED),
    "RATE_STATUS": f"{STATUS}/{REFILL}",
    "RATE_CANDIDATES": f"{CANDIDATES}/{REFILL}",
    "RATE_OFFERS": f"10/{REFILL}",
    "RATE_INITIATES": f"20/{REFILL}",
    "RATE_USER_FACTOR": "2",
    "REFUSALS_MAX": str(REFUSALS),
    "CANDIDATES_PER_CALL": str(IN_CALL),
    "RINGS_PER_CALLER": f"{CALLER}/{RING_REFILL}",
    "RINGS_PER_CALLEE": f"{CALLEE}/{RING_REFILL}",
    "RING_BACKOFF_SECONDS": str(BACKOFF_SECONDS),
}
_EXPECTED: set[str] = set()
"""Limits that tests have hit, so that their being counted can be looked at once: it is said every ten seconds."""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def tight(clusters: Clusters) -> AsyncIterator[Cluster]:
    """Limits that are soon hit. Afterwards all hits have been counted, and nothing of them is left in the store."""
    cluster = await clusters.get("2x2x1", **TIGHT)
    yield cluster
    await cluster.assert_quiet()
    until = time.monotonic() + max(SAID_SECONDS, RING_REFILL) + 8
    while (missing := _EXPECTED - limits_hit(cluster.folder).keys()) or (left := await _ring_keys(cluster)):
        assert time.monotonic() < until, f"not counted: {missing}, left behind: {left}"
        await asyncio.sleep(0.3)
    cluster.check_logs()


async def _ring_keys(cluster: Cluster) -> list[str]:
    values = await stored_records._values(cluster.access, "callcore", "calls")
    return [key for key in values if key.startswith(("caller.", "callee."))]


People = Callable[..., Any]
_numbers = iter(range(1, 1 << 16))


def address() -> str:
    """One that no other test has."""
    number = next(_numbers)
    return f"198.18.{number // 256}.{number % 256}"


@pytest_asyncio.fixture(loop_scope="session")
async def people(tight: Cluster) -> AsyncIterator[People]:
    """Makes joined clients, each from an address of its own."""
    clients: list[RawClient] = []

    async def join(user: str = "", *, gateway: int = 0, at: str = "") -> RawClient:
        client = RawClient(user, headers={"X-Forwarded-For": at or address()})
        try:
            await client.connect(tight.gateways[gateway].url)
        except aiohttp.ClientError:
            await client.close()
            raise
        clients.append(client)
        if user:
            await client.join(user)
        return client

    yield join
    await asyncio.gather(*(client.disconnect() for client in clients))


async def _handshake(url: str, forwarded: str, transport: str = "polling") -> tuple[int, Any, Any]:
    headers = {"X-Forwarded-For": forwarded}
    if transport == "websocket":
        headers |= {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/socket.io/?EIO=4&transport={transport}", headers=headers) as answer,
    ):
        if answer.status == 101:
            return 101, None, answer.headers
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else text, answer.headers


async def test_connections_of_an_address(tight: Cluster, people: People) -> None:
    at, url = address(), tight.gateways[0].url
    clients = [await people(at=f"1.2.3.{n}, {at}") for n in range(PER_ADDRESS)]
    for transport in ("polling", "websocket"):
        for forged in (at, f"9.9.9.9, {at}", f"9.9.9.9,{at} "):
            status, error, headers = await _handshake(url, forged, transport)
            assert (status, error["code"], error["retryable"]) == (429, "rate_limited", True)
            assert error["retryAfterMs"] > 0 and int(headers["Retry-After"]) > 0
    other = await people("beside-address")
    await other.ok("user:status", {"userId": "beside-address"})
    assert (await _handshake(tight.gateways[1].url, at))[0] == 200, "each gateway counts its own"
    await clients[0].disconnect()
    until = time.monotonic() + 5
    while (await _handshake(url, at, "websocket"))[0] != 101:
        assert time.monotonic() < until, "a place that is free again is not given"
        await asyncio.sleep(0.1)
    _EXPECTED.add("connections_per_address")


async def test_an_ipv6_network_is_one_address(tight: Cluster, people: People) -> None:
    for n in range(PER_ADDRESS):
        await people(at=f"2001:db8:7:7:{n:x}::1")
    assert (await _handshake(tight.gateways[0].url, "2001:db8:7:7:ffff::2"))[0] == 429
    assert (await _handshake(tight.gateways[0].url, "2001:db8:7:8::1"))[0] == 200


async def test_sockets_that_have_not_joined(people: People) -> None:
    """Idle sockets from a few addresses make room for people from elsewhere; only their own addresses are refused."""
    beside = await people("beside-unjoined", gateway=1)
    gone = await people("comes-back-unjoined", gateway=0)
    joined = gone.inbox.seen("user:joined")[-1]
    await gone.tear()
    crowd, idle = [address() for _ in range(UNJOINED // PER_ADDRESS + 2)], []
    for n in range(2 * UNJOINED):
        with suppress(aiohttp.WSServerHandshakeError):  # HTTP 429: its address is the busiest
            idle.append(await people(gateway=1, at=crowd[n % len(crowd)]))
    honest = [await people(gateway=1) for _ in range(5)]
    resume = {"sessionId": joined["sessionId"], "token": joined["resume"]["token"], "lastSeq": joined["seq"]}
    again = await people(gateway=1)
    assert (await again.join("comes-back-unjoined", resume=resume))["resumed"]
    await beside.ok("user:status", {"userId": "x"})
    for n, client in enumerate(honest):
        await client.join(f"late-{n}")
    closed = [client.closed.is_set() for client in idle]
    assert any(closed) and closed.index(True) < len(crowd), "not the oldest"
    assert len(idle) - sum(closed) <= UNJOINED
    _EXPECTED.add("unjoined")


async def test_sockets_of_a_user(people: People) -> None:
    clients = [await people("many") for _ in range(PER_USER)]
    more = await people()
    error = await more.refused("user:join", {"userId": "many"}, code="rate_limited")
    assert error["retryable"] and error["retryAfterMs"] > 0
    await clients[0].disconnect()
    await asyncio.sleep(0.3)
    await more.join("many")
    _EXPECTED.add("connections_per_user")


async def test_joins_of_a_user_count_on_all_gateways(tight: Cluster, people: People) -> None:
    """Each time on a new connection, which leaves in good order: nothing but the joins of the user is too much."""
    honest = await people("beside-joins")
    joined, refused = 0, None
    for n in range(JOINS + JOINS_FREE + 5):
        client = await people(gateway=n % 2)
        try:
            ack = await client.ask("user:join", {"userId": "comes-and-goes"})
        finally:
            await client.disconnect()
        joined += ack["ok"]
        if not ack["ok"]:
            refused = ack["error"]
    assert JOINS <= joined <= JOINS + JOINS_FREE
    assert refused is not None and (refused["code"], refused["retryable"]) == ("rate_limited", True)
    assert 0 < refused["retryAfterMs"] <= JOINS_REFILL * 1000
    await honest.ok("user:status", {"userId": "comes-and-goes"})
    await people("beside-joins-too")
    await asyncio.sleep(refused["retryAfterMs"] / 1000)
    await people("comes-and-goes")
    _EXPECTED.add("joins_per_user")


async def test_a_rate_of_a_socket_and_of_its_user(people: People) -> None:
    one, two, three = [await people("asks") for _ in range(3)]
    other = await people("asks-too")
    question = {"userId": "nobody"}
    for _ in range(STATUS):
        await one.ok("user:status", question)
    error = await one.refused("user:status", question, code="rate_limited")
    assert error["retryable"] and 0 < error["retryAfterMs"] <= REFILL / STATUS * 1000
    await one.ok("ice:servers", {})  # of another kind
    for _ in range(STATUS):
        await two.ok("user:status", question)
    await three.refused("user:status", question, code="rate_limited")
    await other.ok("user:status", question)
    _EXPECTED.add("rate_status")


async def test_what_a_user_has_sent_counts_when_it_comes_back(people: People) -> None:
    for _ in range(2):
        client = await people("comes-back")
        for _ in range(STATUS):
            await client.ok("user:status", {"userId": "nobody"})
        await client.disconnect()
    again = await people("comes-back")
    await again.refused("user:status", {"userId": "nobody"}, code="rate_limited")


def _compact(event: str, payload: dict[str, Any]) -> str:
    """As browsers write it; with spaces it would not take the short way."""
    return "42" + json.dumps([event, payload], separators=(",", ":"))


@pytest.mark.parametrize("acknowledged", [False, True], ids=["short", "long"])
async def test_candidates_of_both_ways_count_into_one(people: People, acknowledged: bool) -> None:
    name = f"trickle-{acknowledged}"
    caller, callee = await people(name), await people(f"{name}-peer", gateway=1)
    call = await talk(caller, callee)
    body = {"from": caller.user, "to": callee.user, "callId": call}
    for n in range(CANDIDATES):
        await caller.send(_compact("ice:candidate", {"candidate": {"candidate": "c", "n": n}, **body}))
    await callee.inbox.expect_many("ice:candidate", CANDIDATES)
    more = {"candidate": {"candidate": "c", "n": -1}, **body}
    if acknowledged:
        await caller.refused("ice:candidate", more, code="rate_limited")
    else:
        await caller.send(_compact("ice:candidate", more))
        error = await caller.expect("error", event="ice:candidate")
        assert error["code"] == "rate_limited" and error["retryAfterMs"] > 0
    await end(callee, caller, call=call)
    await callee.settle()
    assert not [r for r in callee.inbox.all if r.event == "ice:candidate" and r.data["candidate"]["n"] < 0]
    _EXPECTED.add("rate_candidates")


@pytest.mark.parametrize("batch", [1, 2])
async def test_candidates_of_a_call(people: People, batch: int) -> None:
    """``batch`` candidates an event; singly the rate would be hit first, so the last ones come in one."""
    name = f"many-candidates-{batch}"
    caller, callee = await people(name), await people(f"{name}-peer", gateway=1)
    call = await talk(caller, callee)
    body = {"from": caller.user, "to": callee.user, "callId": call}
    first = [{"candidate": "c"}] * batch
    for _ in range(10):
        await caller.ok("ice:candidate", {"candidates": first, **body})
    rest = [{"candidate": "c"}] * (IN_CALL - 10 * batch - 1)
    await caller.ok("ice:candidate", {"candidates": rest, **body})
    await caller.ok("ice:candidate", {"candidate": None, **body})
    error = await caller.refused(
        "ice:candidate", {"candidate": {"candidate": "c"}, **body}, code="rate_limited"
    )
    assert not error["retryable"] and str(IN_CALL) in error["message"]
    await callee.ok(
        "ice:candidate", {"candidate": {"candidate": "c"}, "from": callee.user, "to": caller.user}
    )
    await end(callee, caller, call=call)
    _EXPECTED.add("candidates_per_call")


async def test_who_goes_on_is_slowed_and_sent_away(people: People) -> None:
    flooder = await people("floods")
    caller, callee = await people("beside-flood"), await people("beside-flood-peer", gateway=1)
    call = await talk(caller, callee)
    begun = time.monotonic()
    frame = '42["user:status",{"userId":"nobody"}]'
    sent = 0
    while not flooder.closed.is_set() and sent < 5_000:
        await flooder.send(frame)
        sent += 1
        if sent % 50 == 0:
            await asyncio.sleep(0.01)
    await flooder.expect_closed()
    assert time.monotonic() - begun > 0.01 * REFUSALS**2 / 4, "nothing slowed it"
    errors = [r for r in flooder.inbox.all if r.event == "error"]
    assert len(errors) == REFUSALS and {r.data["code"] for r in errors} == {"rate_limited"}
    await end(callee, caller, call=call)
    _EXPECTED.add("refusals")


async def test_garbage_is_slowed_and_sent_away(people: People) -> None:
    client, beside = await people("garbage"), await people("beside-garbage")
    begun = time.monotonic()
    for _ in range(40):
        await client.send("4nonsense")
    await beside.ok("user:status", {"userId": "x"})
    assert time.monotonic() - begun < 2
    await client.expect_closed()
    assert time.monotonic() - begun > 3, "nothing slowed it"
    _EXPECTED.add("strikes")


async def test_depth_of_json(people: People) -> None:
    caller, callee = await people("deep"), await people("deep-peer")
    call = await talk(caller, callee)
    for depth, allowed in ((61, True), (62, False), (5000, False)):
        nested = "[" * depth + "]" * depth
        text = f'{{"offer":{{"sdp":{nested}}},"from":"deep","to":"deep-peer","callId":"{call}"}}'
        ack = await caller.ask_text("call:offer", text)
        assert ack["ok"] is allowed and (allowed or ack["error"]["code"] == "bad_request"), (depth, ack)
    brackets = {"offer": {"sdp": '[{\\"' * 500}, "from": "deep", "to": "deep-peer", "callId": call}
    await caller.ok("call:offer", brackets)
    await end(caller, callee, call=call)


async def test_rings_of_a_caller_count_on_all_gateways(people: People) -> None:
    callers = [await people("rings-others", gateway=gateway) for gateway in (0, 1)]
    callees = [await people(f"rung-{n}", gateway=n % 2) for n in range(CALLER + 1)]
    for n, callee in enumerate(callees[:CALLER]):
        call = await ring(callers[n % 2], callee)
        await callers[n % 2].ok("call:end", {"callId": call})
        await callee.expect("call:ended", callId=call)
    asked = {"to": callees[CALLER].user, "callType": "audio"}
    for caller in callers:
        error = await caller.refused("call:initiate", asked, code="rate_limited")
        assert 0 < error["retryAfterMs"] <= RING_REFILL / CALLER * 1000
    beside = await people("rings-beside")
    call = await ring(beside, callees[CALLER])
    await end(beside, callees[CALLER], call=call, reason="cancelled")
    await asyncio.sleep(error["retryAfterMs"] / 1000)
    call = await ring(callers[0], callees[CALLER])
    await callees[CALLER].ok("call:reject", {"callId": call})
    _EXPECTED.add("rings_per_caller")


async def test_a_callee_who_is_rung_too_often_is_rung_by_new_callers_only(people: People) -> None:
    victim = await people("rung-by-all")
    callers = [await people(f"rings-one-{n}", gateway=n % 2) for n in range(3)]
    for caller in callers * (CALLEE // 3):
        call = await ring(caller, victim)
        await caller.ok("call:end", {"callId": call})
        await victim.expect("call:ended", callId=call)
    asked = {"to": victim.user, "callType": "audio"}
    for caller in callers:
        error = await caller.refused("call:initiate", asked, code="rate_limited")
        assert 0 < error["retryAfterMs"] <= RING_REFILL / CALLEE * 1000
    for n in range(3):
        friend = await people(f"friend-{n}", gateway=n % 2)
        call = await ring(friend, victim)
        await victim.ok("call:accept", {"callId": call})
        await end(friend, victim, call=call)
    other = await people("not-rung")
    call = await ring(callers[0], other)
    await end(callers[0], other, call=call, reason="cancelled")
    _EXPECTED.add("rings_per_callee")


async def test_two_who_ring_and_hang_up_keep_no_honest_caller_out(people: People) -> None:
    """Two accounts ring a user and hang up, twice a second; others ring the same user meanwhile."""
    victim = await people("besieged")
    hostile = [await people(f"besieger-{n}", gateway=n) for n in (0, 1)]
    stop = asyncio.Event()

    async def besiege() -> None:
        asked = {"to": victim.user, "callType": "audio"}
        while not stop.is_set():
            for caller in hostile:
                ack = await caller.ask("call:initiate", asked)
                if ack["ok"]:
                    await caller.ask("call:end", {"callId": ack["callId"]})
                await asyncio.sleep(0.25)

    besieging = asyncio.create_task(besiege())
    refused = []
    try:
        for n in range(12):
            friend = await people(f"besieged-friend-{n}", gateway=n % 2)
            ack = await friend.ask("call:initiate", {"to": victim.user, "callType": "audio"})
            if ack["ok"]:
                await victim.ok("call:accept", {"callId": ack["callId"]})
                await friend.ask("call:end", {"callId": ack["callId"]})
            else:
                refused.append(ack["error"]["code"])
            await friend.disconnect()
            await asyncio.sleep(0.3)
    finally:
        stop.set()
        await besieging
    assert "rate_limited" not in refused and len(refused) <= 2, refused


async def test_a_caller_who_is_not_answered_waits_longer_each_time(people: People) -> None:
    """An account rings a user without end; others get through, and the account may ring others."""
    victim, hostile = await people("pestered"), await people("pesterer", gateway=1)
    asked = {"to": victim.user, "callType": "audio"}
    waits: list[float] = []
    """Of this callee, as the account was told, in seconds."""
    stop = asyncio.Event()

    async def pester() -> None:
        while not stop.is_set():
            ack = await hostile.ask("call:initiate", asked)
            if ack["ok"]:
                await asyncio.sleep(0.8)
                await hostile.ask("call:end", {"callId": ack["callId"]})
            else:
                wait = ack["error"].get("retryAfterMs", 100) / 1000
                if ack["error"]["message"] == "Not answered: wait before ringing this user again":
                    waits.append(wait)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)

    pestering = asyncio.create_task(pester())
    through = 0
    try:
        for n in range(13):
            friend = await people(f"pestered-friend-{n}", gateway=n % 2)
            ack = await friend.ask("call:initiate", asked)
            if ack["ok"]:
                through += 1
                await friend.ask("call:end", {"callId": ack["callId"]})
            else:
                assert ack["error"]["code"] == "user_unavailable"
            await friend.disconnect()
            await asyncio.sleep(0.8)
    finally:
        stop.set()
        await pestering
    assert through >= 7, through
    assert BACKOFF_SECONDS / 2 < waits[0] <= BACKOFF_SECONDS < waits[-1]
    other = await people("not-pestered")
    await asyncio.sleep(RING_REFILL / CALLER)
    call = await ring(hostile, other)
    await end(hostile, other, call=call, reason="cancelled")
    _EXPECTED.add("ring_backoff")


# --- nobody who behaves ---------------------------------------------------------------------------------------

CROWD, BURST, ROUNDS = 40, 50, 3


async def test_normal_clients_on_a_bad_network_are_never_limited(clusters: Clusters) -> None:
    """An office behind one address: its link breaks again and again, and all come back at once and trickle."""
    # Of its own: what others hit would be said in these logs, too.
    cluster = await clusters.get("2x2x1", RATE_LIMIT="on", RESUME_WINDOW_SECONDS="31")
    proxy = Proxy(cluster.gateways[0].port)
    await proxy.start()
    proxy.delay(0.1)
    phones = [Phone(f"office-{n}", [proxy.url]) for n in range(CROWD)]
    try:
        await asyncio.gather(*(phone.start() for phone in phones))
        pairs = list(zip(phones[::2], phones[1::2], strict=True))
        calls = await asyncio.gather(*(_talk(*pair) for pair in pairs))
        for round_ in range(ROUNDS):
            proxy.cut()
            await asyncio.gather(
                *(_burst(a, b, call, round_) for (a, b), call in zip(pairs, calls, strict=True))
            )
            await asyncio.gather(
                *(b.until("ice:candidate", BURST * (round_ + 1), timeout=30) for _, b in pairs)
            )
        await asyncio.gather(
            *(a.ok("call:end", {"callId": c}) for (a, _), c in zip(pairs, calls, strict=True))
        )
        assert not [phone.refused for phone in phones if "rate_limited" in phone.refused]
        assert not [e for phone in phones for e in phone.events["error"] if e["code"] == "rate_limited"]
        assert not limits_hit(cluster.folder)
    finally:
        await asyncio.gather(*(phone.stop() for phone in phones))
        await proxy.stop()


async def _talk(caller: Phone, callee: Phone) -> str:
    call = (await caller.ok("call:initiate", {"to": callee.user, "callType": "audio"}))["callId"]
    await callee.until("call:incoming")
    await callee.ok("call:accept", {"callId": call})
    return str(call)


async def _burst(a: Phone, b: Phone, call: str, round_: int) -> None:
    body = {"from": a.user, "to": b.user, "callId": call}
    await a.ok("call:offer", {"offer": {"type": "offer", "sdp": "v=0"}, **body})
    for n in range(BURST):
        candidate = {"candidate": "c" * 100, "n": round_ * BURST + n}
        await a.ok("ice:candidate", {"candidate": candidate, **body}) if n == 0 else await a._client.emit(
            "ice:candidate", {"candidate": candidate, **body}
        )
