"""Frames that are no Socket.IO, and requests that are no Engine.IO: closed or ignored, and never a traceback."""

import asyncio
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.inbox import PATIENCE_SECONDS
from tests.support.raw_client import RawClient
from tests.support.scenario import PYTHON, Stage, end, talk

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

FRAMES: tuple[str | bytes, ...] = (
    "",
    "4",
    "42",
    "42[]",
    "42[1]",
    "42[null,{}]",
    '42["call:accept"',
    "42{}",
    '42"call:accept"',
    '42["call:accept",{"callId":}]',
    '42["",{}]',
    '42["no:such:event",{}]',
    '42["connect",{}]',
    '42["disconnect",{}]',
    '42["*",{}]',
    '42["__disconnect_final",{}]',
    '4299999999999999999999["user:status",{}]',
    '42-1["user:status",{}]',
    '42/admin,["user:status",{}]',
    '42/,["user:status",{}]',
    '42["user:status",' + "[" * 10_000 + "]" * 10_000 + "]",
    '42["user:status",' + "[" * 10_000,
    '42["user:status","\\ud800"]',
    "40",
    "40/admin,",
    '40{"token":"x"}',
    "41/admin,",
    "43",
    "431[]",
    "4399999[1]",
    "44",
    '45["call:offer",{}]',
    '451-["call:offer",{"offer":{"_placeholder":true,"num":0}}]',
    '45999-["call:offer",{"_placeholder":true,"num":7}]',
    "461-1[]",
    "47",
    "49",
    "4x",
    "0",
    "0{}",
    "1",
    "2",
    "2probe",
    "3",
    "5",
    "6",
    "7",
    "9",
    "x",
    "\x00",
    "👋",
    b"",
    b"\x00\x01\x02",
    b"4\xff\xfe",
)


@pytest_asyncio.fixture(loop_scope="session")
async def scene(big: Cluster) -> AsyncIterator[Stage]:
    """A stage on 2x2x2, on which a call works at the end."""
    async for stage in Stage.on(big, f"{PYTHON}-websocket", None):
        yield stage
        alice, bob = await stage.user("next caller", gateway=0), await stage.user("next callee", gateway=1)
        await end(alice, bob, call=await talk(alice, bob))


async def _strike(stage: Stage, url: str, number: int, frame: str | bytes, *, joined: bool) -> None:
    socket = RawClient(f"raw {frame!r:.40}")
    await socket.connect(url)
    if joined:
        await socket.join(stage.id(f"raw{number}"))
    await socket.send(frame)
    await socket.send('4277["user:status",{"userId":"x"}]')
    # Whatever the frame does, the socket is closed or goes on working: never silent.
    working = asyncio.create_task(_first_word(socket))
    closed = asyncio.create_task(socket.closed.wait())
    done, _ = await asyncio.wait(
        {working, closed}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    working.cancel()
    closed.cancel()
    await socket.close()
    assert done, f"{frame!r:.60}: neither closed nor working"


async def _first_word(socket: RawClient) -> None:
    while not any(r.event in ("user:status", "error") for r in socket.inbox.all):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("joined", [False, True], ids=["stranger", "joined"])
async def test_frames_that_mean_nothing(scene: Stage, big: Cluster, joined: bool) -> None:
    for gateway in big.gateways:
        strikes = (
            _strike(scene, gateway.url, number, frame, joined=joined) for number, frame in enumerate(FRAMES)
        )
        await asyncio.gather(*strikes)


async def test_frames_before_the_namespace_is_connected(scene: Stage, big: Cluster) -> None:
    for frame in FRAMES:
        socket = RawClient("early")
        await socket.open(big.gateways[0].url)
        await socket.send(frame)
        await socket.send("41")
        await socket.close()


async def test_requests_that_mean_nothing(scene: Stage, big: Cluster) -> None:
    base = f"{big.gateways[0].url}/socket.io/"
    queries = (
        "",
        "?EIO=3&transport=polling",
        "?EIO=4",
        "?EIO=4&transport=carrier-pigeon",
        "?EIO=4&transport=polling&sid=nobody",
        "?EIO=4&transport=websocket&sid=nobody",
        "?EIO=x&transport=polling&sid=%00%ff",
        "?EIO=4&transport=polling&j=0",
        "?EIO=4&transport=websocket",
    )
    bodies = (b"", b"4", b"\x1e\x1e\x1e", b"\xff\xfe", b"42[" * 1000, b"x" * 2_000_000)
    async with aiohttp.ClientSession() as http:
        for query in queries:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                async with http.request(
                    method, base + query, data=b"42[]" if method == "POST" else None
                ) as answer:
                    await answer.read()
                    assert answer.status < 500, f"{method} {query}: {answer.status}"
        for body in bodies:
            async with http.get(f"{base}?EIO=4&transport=polling") as answer:
                sid = (await answer.text()).split('"sid":"')[1].split('"')[0]
            async with http.post(
                f"{base}?EIO=4&transport=polling&sid={sid}", data=io.BytesIO(body)
            ) as answer:
                await answer.read()
                assert answer.status < 500, f"{body[:20]!r}: {answer.status}"
