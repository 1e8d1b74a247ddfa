"""In front of Socket.IO: connections that say nothing, requests that overlap, headers, what errors give away."""

import asyncio
import json
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from services.gateway.protocol import packets
from services.gateway.transport import http_server
from services.gateway.websocket import state
from shared import subjects
from shared.clock import now_ms
from shared.nats.connection import Bus
from shared.observability.limit_hits import LimitHits
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start
from tests.integration.gateway.test_garbage import Polling
from tests.support.logged import Logged

WS = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@asynccontextmanager
async def tcp(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()


async def said(url: str, request: str) -> tuple[int, dict[str, str], bytes]:
    """What is answered to bytes that may be a request: status, headers, body."""
    async with tcp(url) as (reader, writer), asyncio.timeout(5):
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body


async def _closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass


# --- connections that open nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first", ["", "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\nX-A: "]
)
async def test_who_does_not_bring_a_request_is_closed(
    gateway: Start, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(http_server, "HEADERS_SECONDS", 0.3)
    url = await gateway()
    async with tcp(url) as (reader, writer), asyncio.timeout(5):
        writer.write(first.encode())
        closed = asyncio.create_task(_closed(reader))
        while not closed.done():
            await asyncio.sleep(0.1)
            writer.write(b"x" if first else b"")  # a byte now and then
    status, _, _ = await said(url, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status == 200


async def test_a_connection_that_has_brought_one_may_wait_for_the_next(
    gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEADERS_SECONDS", 0.2)
    url = await gateway()
    async with tcp(url) as (reader, writer), asyncio.timeout(5):
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(12)
            await asyncio.sleep(0.5)


async def test_bare_connections_of_an_address_are_counted(gateway: Start) -> None:
    url = await gateway(connections_per_address=2)
    most = 2 * http_server.SOCKETS_PER_CONNECTION
    port = int(url.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(most)]
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await _closed(reader)
        writer.close()
        for _, writer in held:
            writer.close()
        while True:
            await asyncio.sleep(0.05)
            try:
                assert (await said(url, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 200
                break
            except (ConnectionError, asyncio.IncompleteReadError):
                pass


async def test_a_proxy_may_have_any_number(gateway: Start) -> None:
    url = await gateway(connections_per_address=1, trusted_proxies="127.0.0.1")
    port = int(url.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    assert (await said(url, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 200
    for _, writer in held:
        writer.close()


async def test_an_empty_session_id_does_not_pass_by_the_limits(gateway: Start) -> None:
    url = await gateway(connections_per_address=1)
    opening = "GET /socket.io/?EIO=4&transport={}&{} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
    assert (await said(url, opening.format("polling", "", "")))[0] == 200
    for query in ("sid=", "sid", "%73id=", "sid=&sid="):
        for transport, head in (("polling", ""), ("websocket", WS)):
            status, _, body = await said(url, opening.format(transport, query, head))
            assert (status, json.loads(body)["code"]) == (429, "rate_limited")


async def test_a_websocket_that_did_not_come_about_takes_no_place(gateway: Start) -> None:
    url = await gateway(connections_per_address=1)
    opening = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
    for wrong in (
        WS.replace("Version: 13", "Version: 6"),
        WS.replace("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", ""),
        WS.replace("AAAAAAAAAAAAAAAAAAAAAA==", "x"),
    ):
        assert (await said(url, opening.format(wrong)))[0] in (400, 426)
    assert (await said(url, opening.format(WS)))[0] == 101


async def test_sizes_and_times_are_counted_where_they_are_hit(
    gateway: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()
    monkeypatch.setattr(LimitHits, "hit", lambda _, limit: counted.update([limit]))
    url = await gateway(join_timeout_seconds=0.5, metadata_max_bytes=10, json_depth_max=10)
    alice = await connect(url, "alice")
    call = {"to": "bob", "callType": "audio"}
    await alice.refused("call:initiate", {**call, "metadata": "x" * 9}, code="bad_request")
    await alice.refused("user:status", {"userId": "x" * 129}, code="bad_request")
    ack = await alice.ask_text("call:initiate", '{"metadata":' + "[" * 9 + "]" * 9 + "}")
    assert ack["error"]["message"] == packets.TOO_DEEP
    await alice.send("4" + "x" * 200_000)
    await alice.expect_closed()
    async with aiohttp.ClientSession() as http:
        polling = Polling(http, url)
        await polling.open()
        assert await polling.post(b"4" * 200_000) == 413
    await (await connect(url)).expect_closed()
    assert counted == {"sizes": 2, "depth": 1, "frame_size": 2, "join_timeout": 2}


# --- what is said to anybody --------------------------------------------------------------------------------------

GARBAGE = (
    "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "GET / HTTP/9.9\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\n" + "A: " + "x" * 9000 + "\r\n\r\n",
    "GET /" + "x" * 9000 + " HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\n" + "A: b\r\n" * 500 + "\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nA: b\x00c\r\n\r\n",
)


async def test_bytes_that_are_no_request_are_told_so_and_no_more(gateway: Start, logged: Logged) -> None:
    url = await gateway()
    for request in GARBAGE:
        status, headers, body = await said(url, request)
        assert 400 <= status < 500, request
        assert headers["server"] == "signalling" and headers["x-content-type-options"] == "nosniff"
        assert len(body) < 40 and b"x" * 10 not in body
    assert not logged.errors() and "Error handling" not in logged.text()


REQUESTS = (
    ("GET", "/", ""),
    ("GET", "/page/nothing.js", ""),
    ("GET", "/healthz", ""),
    ("GET", "/readyz", ""),
    ("GET", "/nothing", ""),
    ("TRACE", "/healthz", ""),
    ("GET", "/socket.io/?EIO=4&transport=polling", ""),
    ("GET", "/socket.io/?EIO=3&transport=polling", ""),
    ("GET", "/socket.io/?EIO=4&transport=polling&sid=x", ""),
    ("GET", "/socket.io/?EIO=4&transport=polling", "Origin: https://evil.example\r\n"),
    ("POST", "/socket.io/?EIO=4&transport=polling&sid=x", "Content-Length: 0\r\n"),
    ("POST", "/socket.io/?EIO=4&transport=polling&sid=x", "Content-Length: 999999\r\n"),
    ("PUT", "/socket.io/?EIO=4&transport=polling", ""),
    ("OPTIONS", "/socket.io/?EIO=4&transport=polling", ""),
    ("GET", "/socket.io/?EIO=4&transport=websocket", WS),
    ("POST", "/healthz", "Expect: the unexpected\r\n"),
)


async def test_each_answer_has_the_headers_and_no_version(gateway: Start) -> None:
    url = await gateway()
    for method, path, head in REQUESTS:
        status, headers, body = await said(url, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n")
        assert headers["server"] == "signalling", path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] in ("no-store", "no-cache")
        text = (json.dumps(headers) + body.decode()).lower()
        assert not [word for word in ("aiohttp", "python", "engineio", "traceback") if word in text], text
        if "evil" in head:
            assert status == 400 and "access-control-allow-origin" not in headers and "evil" not in text


async def test_what_is_missing_is_no_map_of_what_is_there(gateway: Start) -> None:
    _, _, body = await said(await gateway(), "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert json.loads(body) == {"ok": True, "missing": []}


# --- polling ------------------------------------------------------------------------------------------------------


async def test_a_second_poll_ends_the_first(gateway: Start) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        polling = Polling(http, url)
        await polling.open()
        await polling.post(b"40")
        await polling.until('40{"sid"')
        polls = []
        for _ in range(30):
            polls.append(asyncio.create_task(http.get(polling._url)))
            await asyncio.sleep(0.005)
        done, waiting = await asyncio.wait(polls[:-1], timeout=30)
        assert not waiting and not polls[-1].done()
        for poll in done:
            assert poll.result().status == 200 and await poll.result().text() == "6"
        await polling.post(b'42["user:join",{"userId":"alice"}]')
        assert "user:joined" in await (await polls[-1]).text(), "the last one gets what comes"


def told_in(polled: str, event: str) -> dict[str, Any]:
    """Return the payload of an event in what a poll brought."""
    packets_ = (packet[2:] for packet in polled.split("\x1e") if packet.startswith("42"))
    return next(payload for name, payload in map(json.loads, packets_) if name == event)


async def test_the_time_left_to_ring_is_that_of_the_poll_that_takes_it(gateway: Start, bus: Bus) -> None:
    """An event may wait for a polling client; what it says of the time must not be as old as it is."""
    url = await gateway()
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        polling = Polling(http, url)
        await polling.open()
        await polling.post(b"40")
        await polling.until('40{"sid"')
        await polling.post(b'42["user:join",{"userId":"alice"}]')
        session = told_in(await polling.until("user:joined"), "user:joined")["sessionId"]
        payload = b'{"callId":"c1","metadata":{"expiresAt":1},"expiresAt":%d,"seq":1}' % (now_ms() + 5000)
        bus.publish(subjects.deliver(GATEWAY, session, "call:incoming"), payload)
        await asyncio.sleep(1)
        told = told_in(await polling.until("call:incoming"), "call:incoming")
        assert 0 < told.pop("expiresInMs") <= 4000
        assert told == json.loads(payload)


async def test_a_second_post_at_the_same_time_ends_the_connection(gateway: Start, services: Services) -> None:
    url = await gateway()
    services.slow["join"] = 0.3
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        polling = Polling(http, url)
        await polling.open()
        await polling.post(b"40")
        await polling.until('40{"sid"')
        first = asyncio.create_task(polling.post(b'42["user:join",{"userId":"alice"}]'))
        await services.wait_for("join")
        assert await polling.post(b'42["user:join",{"userId":"bob"}]') == 400
        await first
        assert {request["user"] for verb, request in services.asked if verb == "join"} == {"alice"}
        await services.wait_for("lost")
        async with http.get(polling._url) as answer:
            assert answer.status == 400


async def test_one_upgrade_at_a_time(gateway: Start, services: Services) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        polling = Polling(http, url)
        await polling.open()
        await polling.post(b"40")
        await polling.until('40{"sid"')
        address = polling._url.replace("transport=polling", "transport=websocket")
        first = await http.ws_connect(address)
        for _ in range(3):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(address)
            assert refused.value.status == 400
        await first.send_str("2probe")
        assert (await first.receive()).data == "3probe"
        await first.send_str("5")
        await first.send_str('420["user:join",{"userId":"alice"}]')
        while "user:joined" not in (await first.receive()).data:
            pass
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(address)
        await first.close()


async def test_an_upgrade_that_came_to_nothing_may_be_tried_again(gateway: Start) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        polling = Polling(http, url)
        await polling.open()
        address = polling._url.replace("transport=polling", "transport=websocket")
        async with http.ws_connect(address) as ws:
            await ws.send_str("no probe")
        async with asyncio.timeout(3):
            while True:
                try:
                    async with http.ws_connect(address) as ws:
                        await ws.send_str("2probe")
                        assert (await ws.receive()).data == "3probe"
                    break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.02)


async def test_a_body_that_breaks_off_is_nothing_to_write_about(gateway: Start, logged: Logged) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http:
        polling = Polling(http, url)
        await polling.open()
        async with tcp(url) as (_, writer):
            path = polling._url.removeprefix(url)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n4".encode())
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.2)
        assert not logged.errors()
        assert await polling.post(b"40") == 200


async def test_bodies_are_not_unpacked(gateway: Start, services: Services) -> None:
    url = await gateway()
    bomb = zlib.compress(b"4" * 50_000_000)
    async with aiohttp.ClientSession() as http:
        polling = Polling(http, url)
        await polling.open()
        headers = {"Content-Encoding": "deflate"}
        tracemalloc.start()
        try:
            async with http.post(polling._url, data=bomb, headers=headers) as answer:
                assert answer.status == 415
            assert tracemalloc.get_traced_memory()[1] < 5_000_000, "it was unpacked"
        finally:
            tracemalloc.stop()


# --- frames that cost and mean nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["3", "5", "2probe", "40/admin,", "ping", "pong"])
async def test_endless_frames_that_mean_nothing_end_the_connection(
    gateway: Start, services: Services, kind: str
) -> None:
    url = await gateway(strikes_max=8)  # each strike is answered later than the one before
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", autoping=False) as ws,
    ):
        send = {"ping": ws.ping, "pong": ws.pong}.get(kind, lambda: ws.send_str(kind))

        async def flood() -> None:
            try:
                while True:
                    await send()
                    await asyncio.sleep(0)
            except (ConnectionError, aiohttp.ClientError):
                pass

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(20):
            while (await ws.receive()).type not in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE):
                pass
        flooding.cancel()


async def test_a_body_of_pongs_ends_the_connection(gateway: Start) -> None:
    url = await gateway(strikes_max=8)
    async with aiohttp.ClientSession() as http, asyncio.timeout(10):
        polling = Polling(http, url)
        await polling.open()
        assert await polling.post(b"3") == 200
        await polling.post(b"\x1e".join([b"3"] * 1000))
        async with http.get(polling._url) as answer:
            while answer.status == 200 and await answer.text() != "1":
                answer = await http.get(polling._url)


async def test_pings_of_a_client_that_is_careful_are_answered(gateway: Start) -> None:
    url = await gateway()
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", autoping=False) as ws,
        asyncio.timeout(5),
    ):
        await ws.receive()
        for n in range(state.CONTROL_FRAMES_MAX):
            await ws.ping(b"%d" % n)
            answer = await ws.receive()
            assert (answer.type, answer.data) == (aiohttp.WSMsgType.PONG, b"%d" % n)


@pytest.mark.parametrize(
    "rest", [b"\x01\xfe\x00\x10", b"\x01\x84abcd4444", b"\x81"], ids=["half", "fragment", "head"]
)
async def test_a_frame_that_does_not_end_ends_with_the_pings(
    gateway: Start, connect: Connect, rest: bytes
) -> None:
    url = await gateway(ping_interval_seconds=1, ping_timeout_seconds=1)
    async with tcp(url) as (reader, writer), asyncio.timeout(30):
        writer.write(
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n{WS}\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write(rest)
        await _closed(reader)
    await (await connect(url, "beside")).settle()
