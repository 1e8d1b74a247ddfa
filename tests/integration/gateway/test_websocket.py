"""Websockets, byte by byte: what libraries for clients do not send, or not like that."""

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from engineio.async_socket import AsyncSocket

from shared import subjects
from shared.nats.connection import Bus
from shared.observability.limit_hits import LimitHits
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start

REQUEST = (
    b"GET /socket.io/?EIO=4&transport=websocket%b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
STATUS = b'["user:status",{"userId":"x"}]'


def frame(data: bytes, kind: int = TEXT) -> bytes:
    """A frame as a client writes it, its mask all zeros."""
    if len(data) < 126:
        return bytes((kind, 0x80 | len(data))) + bytes(4) + data
    return bytes((kind, 0xFE)) + len(data).to_bytes(2) + bytes(4) + data


class Wire:
    """A TCP connection that has asked for a websocket. ``first``: what leaves together with the request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str, first: bytes = b"", query: bytes = b"") -> "Wire":
        parts = urlsplit(url)
        wire = cls(*await asyncio.open_connection(parts.hostname, parts.port))
        wire.writer.write(REQUEST % query + first)
        head = await wire._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return wire

    async def read(self) -> tuple[int, bytes]:
        """The next frame: its first byte, and what it carries."""
        async with asyncio.timeout(30):
            kind, size = await self._reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
            return kind, await self._reader.readexactly(size)

    async def expect(self, begin: bytes) -> bytes:
        """The next text that begins so."""
        while True:
            kind, data = await self.read()
            assert kind == TEXT, (kind, data)
            if data.startswith(begin):
                return data

    async def expect_closed(self) -> int:
        """The code of the close frame that comes next, texts aside."""
        while (got := await self.read())[0] == TEXT:
            pass
        kind, data = got
        assert kind == CLOSE
        return int.from_bytes(data[:2])

    async def join(self, user: str) -> None:
        self.writer.write(frame(b"40"))
        await self.expect(b"40")
        self.writer.write(frame(b'42["user:join",{"userId":"%b"}]' % user.encode()))
        await self.expect(b'42["user:joined"')


Open = Callable[..., Coroutine[Any, Any, Wire]]


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Open]:
    wires: list[Wire] = []

    async def one(url: str, **options: bytes) -> Wire:
        wires.append(await Wire.open(url, **options))
        return wires[-1]

    yield one
    for each in wires:
        each.writer.close()


async def test_frames_that_come_with_the_handshake(gateway: Start, services: Services, wire: Open) -> None:
    joins = frame(b'42["user:join",{"userId":"alice"}]')
    client = await wire(await gateway(), first=frame(b"40") + joins + frame(b"421" + STATUS))
    assert (await client.expect(b"0{")).startswith(b"0{")
    await client.expect(b'42["user:joined"')
    await client.expect(b"431[")


async def test_a_frame_in_pieces(gateway: Start, services: Services, wire: Open) -> None:
    client = await wire(await gateway())
    await client.join("alice")
    for byte in frame(b"421" + STATUS):
        client.writer.write(bytes((byte,)))
        await asyncio.sleep(0.001)
    await client.expect(b"431[")
    client.writer.write(frame(b"422", 0x01) + frame(b"?", PING) + frame(STATUS, 0x80))
    assert await client.read() == (PONG, b"?")
    await client.expect(b"432[")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(b"x", 0xC1), 1002, id="reserved bit"),
        pytest.param(frame(b"x", 0x80), 1002, id="goes on with nothing"),
        pytest.param(frame(b"x", 0x83), 1002, id="unknown kind"),
        pytest.param(frame(b"4\xff"), 1007, id="not UTF-8"),
        pytest.param(bytes((TEXT, 0xFF)) + (2**20).to_bytes(8) + bytes(4), 1009, id="too large"),
        pytest.param(frame((1000).to_bytes(2), CLOSE), 1000, id="close"),
    ],
)
async def test_what_ends_it(gateway: Start, services: Services, wire: Open, sent: bytes, code: int) -> None:
    client = await wire(await gateway())
    await client.join("alice")
    client.writer.write(sent + frame(b"421" + STATUS))
    assert await client.expect_closed() == code
    await services.wait_for("lost")
    assert "status" not in services.verbs(), "nothing is heard behind it"


async def test_what_was_read_before_it_broke_is_done(gateway: Start, services: Services, wire: Open) -> None:
    services.slow["status"] = 0.3
    client = await wire(await gateway())
    await client.join("alice")
    call = "A" * 22
    client.writer.write(frame(b"421" + STATUS) + frame(b'42["call:end",{"callId":"%b"}]' % call.encode()))
    await services.wait_for("status")
    client.writer.transport.abort()
    assert (await services.wait_for("end"))["call"] == call
    await services.wait_for("lost")
    assert services.verbs() == ["join", "status", "end", "lost"]


async def test_pings_are_answered_while_something_takes_its_time(
    gateway: Start, services: Services, wire: Open
) -> None:
    services.slow["status"] = 3.0
    client = await wire(
        await gateway(ping_interval_seconds=1, ping_timeout_seconds=1, request_timeout_seconds=5)
    )
    await client.join("alice")
    client.writer.write(frame(b"421" + STATUS))
    pings = 0
    while True:
        kind, data = await client.read()
        assert kind == TEXT
        if data == b"2":
            pings += 1
            client.writer.write(frame(b"3"))
        if data.startswith(b"431["):
            break
    assert pings >= 2, "heard at once, and the next ones asked"


async def test_who_does_not_answer_pings_is_gone(gateway: Start, services: Services, wire: Open) -> None:
    client = await wire(await gateway(ping_interval_seconds=1, ping_timeout_seconds=1))
    await client.join("alice")
    with pytest.raises(asyncio.IncompleteReadError):
        await client.expect(b"what never comes")
    await services.wait_for("lost")


async def test_nothing_is_read_past_what_may_wait(gateway: Start, services: Services, wire: Open) -> None:
    services.slow["status"] = 2.0
    client = await wire(await gateway(request_timeout_seconds=5, rate_limit=False))
    await client.join("alice")
    client.writer.write(frame(b"421" + STATUS))
    await services.wait_for("status")
    client.writer.transport.set_write_buffer_limits(high=0)
    sent = 0

    async def send() -> None:
        nonlocal sent
        many = frame(b"42[%b]" % (b" " * 60_000)) * 8
        while sent < 64 * 2**20:
            client.writer.write(many)
            await client.writer.drain()
            sent += len(many)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(), 1)
    assert sent < 32 * 2**20, "what the kernel takes, and no more"


UNREAD_KB = 1024
LETTER_BYTES = 64 * 1024
KERNEL_BYTES = 16 * 2**20
"""More than the kernel keeps for a client that does not read."""


def letter(number: int) -> bytes:
    return b'{"n":%d,"x":"%b","seq":%d}' % (number, b"x" * LETTER_BYTES, number + 1)


async def number_of_next(client: Wire) -> int:
    text = await client.expect(b'42["call:offer"')
    return int(text[text.index(b":", 15) + 1 : text.index(b",", 17)])


async def numbers_until_closed(client: Wire) -> tuple[list[int], int]:
    """The numbers of all letters that come, and the code of the close frame after them."""
    numbers: list[int] = []
    while (got := await client.read())[0] == TEXT:
        text = got[1]
        if text.startswith(b'42["call:offer"'):
            numbers.append(int(text[text.index(b":", 15) + 1 : text.index(b",", 17)]))
    kind, data = got
    assert kind == CLOSE
    return numbers, int.from_bytes(data[:2])


async def test_what_a_client_does_not_read_waits_within_its_limit(
    gateway: Start, services: Services, wire: Open, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = Counter[str]()
    monkeypatch.setattr(LimitHits, "hit", lambda _, limit: hits.update([limit]))
    client = await wire(await gateway(unread_max_kb=UNREAD_KB))
    await client.join("bob")
    session = "s-" + (await services.wait_for("join"))["socket"]
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    sent = 0
    while not hits["unread"]:
        assert sent < 2 * KERNEL_BYTES // LETTER_BYTES, "nothing bounds what waits for it"
        bus.publish(subjects.deliver(GATEWAY, session, "call:offer"), letter(sent))
        sent += 1
        await asyncio.sleep(0.002)

    async def more() -> None:
        """What comes once the client reads again, and before it is closed, must not follow what was left out."""
        number = sent
        while True:
            bus.publish(subjects.deliver(GATEWAY, session, "call:offer"), letter(number))
            number += 1
            await asyncio.sleep(0.001)

    going_on = asyncio.create_task(more())
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    got, code = await numbers_until_closed(client)
    going_on.cancel()
    assert got == list(range(len(got))), "in order, and nothing left out"
    assert len(got) * LETTER_BYTES >= UNREAD_KB * 1024, "what fits within the limit is not lost"
    assert len(got) < sent, "the one too many closes it"
    assert code == 1000


async def test_who_reads_late_misses_nothing(
    gateway: Start, services: Services, wire: Open, bus: Bus
) -> None:
    client = await wire(await gateway(unread_max_kb=32 * 1024))
    await client.join("bob")
    session = "s-" + (await services.wait_for("join"))["socket"]
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    count = KERNEL_BYTES // LETTER_BYTES
    for number in range(count):
        bus.publish(subjects.deliver(GATEWAY, session, "call:offer"), letter(number))
        await asyncio.sleep(0.002)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for number in range(count):
        if number == count // 2:
            bus.publish(subjects.deliver(GATEWAY, session, "call:offer"), letter(count))
        assert await number_of_next(client) == number
    assert await number_of_next(client) == count


async def test_one_upgrade_and_no_more(gateway: Start, services: Services, wire: Open) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http:
        base = f"{url}/socket.io/?EIO=4&transport=polling"
        async with http.get(base) as answer:
            sid = json.loads((await answer.text())[1:])["sid"]
        query = b"&sid=" + sid.encode()
        one = await wire(url, query=query)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
            await http.ws_connect(base.replace("polling", "websocket") + query.decode())
        one.writer.write(frame(b"2probe"))
        await one.expect(b"3probe")
        one.writer.write(frame(b"5"))
        await one.join("alice")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
            await http.ws_connect(base.replace("polling", "websocket") + query.decode())
        one.writer.write(frame(b"421" + STATUS))
        await one.expect(b"431[")


async def test_an_upgrade_that_fails_leaves_the_polling(
    gateway: Start, services: Services, wire: Open
) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http:
        base = f"{url}/socket.io/?EIO=4&transport=polling"
        async with http.get(base) as answer:
            sid = json.loads((await answer.text())[1:])["sid"]
        upgrade = await wire(url, query=b"&sid=" + sid.encode())
        upgrade.writer.write(frame(b"2probe") + frame(b"41"))
        await upgrade.expect(b"3probe")
        assert await upgrade.expect_closed() == 1000
        upgrade.writer.close()
        async with http.post(f"{base}&sid={sid}", data=b"40") as answer:
            assert answer.status == 200
        async with asyncio.timeout(5):
            text = ""
            while "40{" not in text:
                async with http.get(f"{base}&sid={sid}") as answer:
                    text = await answer.text()


async def test_an_idle_one_keeps_nothing_of_the_http_server(
    gateway: Start, connect: Connect, services: Services
) -> None:
    url = await gateway()
    tasks = len(asyncio.all_tasks())
    wires = [await Wire.open(url) for _ in range(20)]
    for n, each in enumerate(wires):
        await each.join(f"user{n}")
    await asyncio.sleep(0.1)
    gc.collect()
    assert len(asyncio.all_tasks()) <= tasks
    assert sum(isinstance(each, RequestHandler) for each in gc.get_objects()) <= 1
    for each in wires:
        each.writer.close()


async def test_who_is_gone_before_the_answer_leaves_nothing(
    gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(await gateway())
    prepare = web.WebSocketResponse.prepare

    async def late(self: web.WebSocketResponse, request: web.BaseRequest) -> Any:
        answer = await prepare(self, request)
        while request.transport is not None:
            await asyncio.sleep(0.01)
        return answer

    monkeypatch.setattr(web.WebSocketResponse, "prepare", late)
    for _ in range(5):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(REQUEST % b"")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
    await asyncio.sleep(0.2)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, AsyncSocket)]
