"""Frames, bodies and requests that mean nothing, and clients that do not behave."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_raw_frames import FRAMES
from tests.integration.gateway.conftest import Connect, Services, Start

FRAME_PARAMETERS = [pytest.param(frame, id=str(n)) for n, frame in enumerate(FRAMES)]


@pytest.mark.parametrize("frame", FRAME_PARAMETERS)
async def test_frames(gateway: Start, connect: Connect, services: Services, frame: str | bytes) -> None:
    url = await gateway()
    client = await connect(url, "alice")
    await client.send(frame)
    try:
        await client.ask_text("user:status", '{"userId":"x"}')
    except ConnectionError:
        assert frame in ("1", "41"), "only leaving ends a connection"
    bystander = await connect(url, "bob")
    await bystander.settle()


async def test_binary_is_told_so(gateway: Start, connect: Connect, services: Services) -> None:
    client = await connect(await gateway(), "alice")
    await client.send(b"\x00")
    assert (await client.expect("error"))["message"] == "Binary data is not supported"


async def test_strikes(gateway: Start, connect: Connect, services: Services) -> None:
    client = await connect(await gateway(strikes_max=5), "alice")
    for _ in range(3):
        await client.send("x")
    await client.settle()
    for _ in range(3):
        await client.send("x")
    await client.expect_closed()
    await services.wait_for("lost")


async def test_too_large_a_frame(gateway: Start) -> None:
    url = await gateway()
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket") as ws,
    ):
        await ws.receive()
        await ws.send_str("4" * (128 * 1024 + 1))
        async with asyncio.timeout(5):
            while not ws.closed:
                await ws.receive()
        assert ws.close_code == 1009


@pytest.mark.parametrize("first", ["", "40"])
async def test_who_does_not_join_is_closed_even_if_it_ignores_that(gateway: Start, first: str) -> None:
    url = await gateway(join_timeout_seconds=0.3)
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket") as ws,
    ):
        if first:
            await ws.send_str(first)
        async with asyncio.timeout(6):
            while (await ws.receive()).type is aiohttp.WSMsgType.TEXT:
                pass


async def test_who_joins_stays(gateway: Start, connect: Connect, services: Services) -> None:
    client = await connect(await gateway(join_timeout_seconds=0.3), "alice")
    await asyncio.sleep(1)
    await client.settle()


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://app.example", True),
        ("own", True),
        ("https://evil.example", False),
        ("null", False),
    ],
)
async def test_origins(gateway: Start, origin: str | None, *, allowed: bool) -> None:
    url = await gateway(client_url="https://app.example")
    headers = {"Origin": url if origin == "own" else origin} if origin else {}
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{url}/socket.io/?EIO=4&transport=polling", headers=headers) as answer:
            assert (answer.status == 200) is allowed
            if headers:
                assert (answer.headers.get("Access-Control-Allow-Origin") == headers["Origin"]) is allowed
        try:
            async with http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", headers=headers):
                assert allowed
        except aiohttp.WSServerHandshakeError:
            assert not allowed


class Polling:
    """A polling connection by hand."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, f"{url}/socket.io/?EIO=4&transport=polling"

    async def open(self) -> None:
        async with self._http.get(self._url) as answer:
            self._url += "&sid=" + (await answer.text()).split('"sid":"')[1].split('"')[0]

    async def post(self, body: bytes) -> int:
        async with self._http.post(self._url, data=body) as answer:
            return answer.status

    async def until(self, text: str) -> str:
        async with asyncio.timeout(5):
            while True:
                async with self._http.get(self._url) as answer:
                    got = await answer.text()
                    assert answer.status == 200, got
                    if text in got:
                        return got


BODIES = (b"", b"\xff\xfe", b"x", b"\x1e\x1e", b"bAAA", b'4{"a":1}', b"42[" * 9, b"d=42[]")


@pytest.mark.parametrize("body", [*BODIES, b"2", b"6"])
async def test_bodies(gateway: Start, services: Services, body: bytes) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http:
        polling = Polling(http, url)
        await polling.open()
        await polling.post(b"40")
        await polling.until('40{"sid"')
        async with asyncio.timeout(3):
            assert await polling.post(body) in (200, 400)


async def test_too_large_a_body(gateway: Start) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http:
        polling = Polling(http, url)
        await polling.open()
        assert await polling.post(b"4" * (128 * 1024 + 1)) == 413


async def test_many_packets_in_one_body(gateway: Start, services: Services) -> None:
    """A JavaScript client puts into one request as much as fits into ``maxPayload`` bytes."""
    url = await gateway()
    async with aiohttp.ClientSession() as http:
        polling = Polling(http, url)
        await polling.open()
        await polling.post(b"40")
        await polling.until('40{"sid"')
        await polling.post(b'42["user:join",{"userId":"alice"}]')
        await polling.until("user:joined")
        end: Any = b"\x1e".join(b'42["call:end",{"callId":"c%d"}]' % n for n in range(100))
        assert await polling.post(end) == 200
        assert [r["call"] for verb, r in services.asked if verb == "end"] == [f"c{n}" for n in range(100)]
