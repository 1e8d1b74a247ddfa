"""Clients that do not read: how long, and how much may wait for them, and that pongs alone keep nobody."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from services.gateway.settings import Settings
from services.gateway.transport.sender import Sender
from services.gateway.websocket.send_queue import UnreadTotal
from shared import subjects
from shared.nats.connection import Bus
from shared.observability.limit_hits import LimitHits
from tests.integration.gateway.conftest import GATEWAY, Services, Start
from tests.integration.gateway.test_garbage import Polling
from tests.integration.gateway.test_websocket import REQUEST, Wire, frame, letter

KERNEL_KB = 512
"""More than the kernel keeps for one of these clients."""
QUICK = {"drain_seconds": 0}
LONG = {"ping_interval_seconds": 60, "ping_timeout_seconds": 60, **QUICK}

T = TypeVar("T")


@pytest.fixture
def hits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()
    monkeypatch.setattr(LimitHits, "hit", lambda _, limit: found.update([limit]))
    return found


def _made(monkeypatch: pytest.MonkeyPatch, cls: type[T]) -> list[T]:
    """Return a list to which each new instance of ``cls`` is added."""
    made: list[T] = []
    init = cls.__init__

    def note(self: T, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(cls, "__init__", note)
    return made


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> list[Sender]:
    """The sender of the gateway, once it has started."""
    return _made(monkeypatch, Sender)


@pytest.fixture
def total(monkeypatch: pytest.MonkeyPatch) -> list[UnreadTotal]:
    """The total of the gateway, once it has started."""
    return _made(monkeypatch, UnreadTotal)


async def narrow(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection for which the kernel of the client keeps next to nothing, and which is not read."""
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=sock, limit=2**16)


class Deaf(Wire):
    """A websocket of a user who joins, and then reads nothing."""

    session = ""

    @classmethod
    async def joined(cls, url: str, user: str, services: Services) -> "Deaf":
        deaf = cls(*await narrow(url))
        deaf.writer.write(REQUEST % b"")
        assert (await deaf._reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        await deaf.join(user)
        deaf.session = next(
            "s-" + request["socket"]
            for verb, request in services.asked
            if verb == "join" and request["user"] == user
        )
        return deaf

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def pong(self, every: float, seconds: float) -> None:
        """Say that it is there, asked or not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.writer.write(frame(b"3"))
            await asyncio.sleep(every)


Join = Callable[[str, str], Awaitable[Deaf]]


@pytest_asyncio.fixture
async def deaf(services: Services) -> AsyncIterator[Join]:
    made: list[Deaf] = []

    async def one(url: str, user: str) -> Deaf:
        made.append(await Deaf.joined(url, user, services))
        return made[-1]

    yield one
    for each in made:
        each.writer.transport.abort()


def fill(bus: Bus, session: str, kib: int, start: int = 0) -> None:
    """Have so many letters of 64 KiB delivered to a session."""
    for number in range(start, start + kib // 64):
        bus.publish(subjects.deliver(GATEWAY, session, "call:offer"), letter(number))


async def lost(services: Services, session: str, timeout: float) -> float:
    """Wait until presence is told that the session goes into its grace; after how many seconds."""
    begun = time.monotonic()
    async with asyncio.timeout(timeout):
        while not any(verb == "lost" and r["session"] == session for verb, r in services.asked):
            assert "leave" not in services.verbs(), "it did not leave"
            await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def test_the_kernel_keeps_little(
    gateway: Start, services: Services, deaf: Join, bus: Bus, sending: list[Sender]
) -> None:
    client = await deaf(await gateway(**LONG), "bob")
    client.stop_reading()
    fill(bus, client.session, 2048)
    async with asyncio.timeout(5):
        while sending[0].unread()[0] < (2048 - KERNEL_KB) * 1024:
            await asyncio.sleep(0.02)


async def test_a_byte_waits_no_longer_than_its_age(
    gateway: Start,
    services: Services,
    deaf: Join,
    bus: Bus,
    hits: Counter[str],
    sending: list[Sender],
    total: list[UnreadTotal],
) -> None:
    url = await gateway(unread_seconds=2, **LONG)
    client, other = await deaf(url, "bob"), await deaf(url, "carol")
    client.stop_reading()
    fill(bus, client.session, 2 * KERNEL_KB)
    fill(bus, other.session, 64)
    pongs = asyncio.create_task(client.pong(0.2, 10))
    took = await lost(services, client.session, 10)
    pongs.cancel()
    assert 1.5 < took < 5
    assert hits["unread_seconds"] == sending[0].aborted["unread_seconds"] == 1
    assert sending[0].unread() == (0, 0) and total[0].size == 0
    await other.expect(b'42["call:offer"')
    other.writer.write(frame(b'427["user:status",{"userId":"x"}]'))
    await other.expect(b"437[")


async def test_all_together_have_a_share(
    gateway: Start,
    services: Services,
    deaf: Join,
    bus: Bus,
    hits: Counter[str],
    sending: list[Sender],
    total: list[UnreadTotal],
) -> None:
    url = await gateway(unread_seconds=60, unread_total_mb=4, unread_max_kb=2048, **LONG)
    clients = [await deaf(url, f"deaf{n}") for n in range(4)]
    reads = await deaf(url, "reads")
    most = 0

    async def read() -> int:
        count = 0
        async with asyncio.timeout(20):
            while True:
                got = await reads.expect(b"4")
                if got.startswith(b'42["call:offer"'):
                    count += 1
                elif got.startswith(b"437["):
                    return count

    reading = asyncio.create_task(read())
    for client in clients:
        client.stop_reading()
    for round_ in range(28):
        for client in (*clients, reads):
            fill(bus, client.session, 64, start=round_)
        await asyncio.sleep(0.1)
        most = max(most, sending[0].unread()[0])
    async with asyncio.timeout(10):
        while total[0].size > 4 * 2**20:
            await asyncio.sleep(0.05)
    assert 0 < hits["unread_total"] == sending[0].aborted["unread_total"] < 4, "no more than need be"
    assert not hits["unread"]
    assert most < 6 * 2**20, "the share, and what comes until it is seen"
    reads.writer.write(frame(b'427["user:status",{"userId":"x"}]'))
    assert await reading == 28, "who reads misses nothing"
    gone = [r["session"] for verb, r in services.asked if verb == "lost"]
    assert len(gone) == hits["unread_total"] and reads.session not in gone


async def test_pongs_to_pings_that_are_not_written_keep_nobody(
    gateway: Start, services: Services, deaf: Join, bus: Bus, hits: Counter[str], sending: list[Sender]
) -> None:
    url = await gateway(unread_seconds=60, ping_interval_seconds=1, ping_timeout_seconds=1, **QUICK)
    client = await deaf(url, "bob")
    client.stop_reading()
    fill(bus, client.session, 2 * KERNEL_KB)
    pongs = asyncio.create_task(client.pong(0.2, 10))
    took = await lost(services, client.session, 8)
    pongs.cancel()
    assert took < 5
    assert sending[0].aborted == {"ping_timeout": 1} and not hits
    assert sending[0].unread() == (0, 0)


async def test_who_posts_pongs_and_does_not_poll_is_gone(
    gateway: Start, services: Services, sending: list[Sender]
) -> None:
    url = await gateway(unread_seconds=60, ping_interval_seconds=1, ping_timeout_seconds=1, **QUICK)
    async with aiohttp.ClientSession() as http:
        client, session = await _polling(http, url, services)
        losing = asyncio.create_task(lost(services, session, 8))
        while not losing.done():
            await client.post(b"3")
            await asyncio.sleep(0.2)
        assert await losing < 6
    assert sending[0].aborted["ping_timeout"] == 1


async def test_who_polls_and_answers_pings_stays(
    gateway: Start, services: Services, sending: list[Sender], total: list[UnreadTotal]
) -> None:
    url = await gateway(unread_seconds=1, ping_interval_seconds=1, ping_timeout_seconds=1, **QUICK)
    async with aiohttp.ClientSession() as http:
        client, _ = await _polling(http, url, services)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            for got in (await client.until("")).split("\x1e"):
                if got == "2":
                    assert await client.post(b"3") == 200
    assert services.verbs() == ["join"] and not sending[0].aborted and total[0].size == 0


async def test_what_waits_for_a_poll_has_an_age(
    gateway: Start,
    services: Services,
    bus: Bus,
    hits: Counter[str],
    sending: list[Sender],
    total: list[UnreadTotal],
) -> None:
    url = await gateway(unread_seconds=2, **LONG)
    async with aiohttp.ClientSession() as http:
        client, session = await _polling(http, url, services)
        fill(bus, session, 128)
        assert 1.5 < await lost(services, session, 8) < 5
        assert hits["unread_seconds"] == 1 and total[0].size == 0
        async with http.get(client._url) as answer:
            assert answer.status == 400, "it is to connect anew"


@asynccontextmanager
async def _answers(url: str, path: str, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Polls whose answers are not read, on connections of their own, one after the other."""
    open_: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        for _ in range(count):
            reader, writer = await narrow(url)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            open_.append((reader, writer))
            await asyncio.sleep(0.2)
        yield [reader for reader, _ in open_]
    finally:
        for _, writer in open_:
            writer.transport.abort()


async def test_answers_that_are_not_read_are_counted_and_have_an_age(
    gateway: Start,
    services: Services,
    bus: Bus,
    hits: Counter[str],
    sending: list[Sender],
    total: list[UnreadTotal],
) -> None:
    """One at a time is kept: a client that polls again has given the answer before up."""
    url = await gateway(unread_seconds=2, **LONG)
    async with aiohttp.ClientSession() as http:
        client, session = await _polling(http, url, services)
        fill(bus, session, 3072)
        await asyncio.sleep(0.2)
        async with _answers(url, client._url.removeprefix(url), 2) as readers:
            waits, clients = sending[0].unread()
            assert clients == 1 and waits == total[0].size
            assert 1024 * 1024 < waits < 2.2 * 1024 * 1024, "what waits, and the answer that is written now"
            await lost(services, session, 8)
            assert hits["unread_seconds"] == 1 and total[0].size == 0
            for reader in readers:
                reader._transport.resume_reading()  # type: ignore[attr-defined]
                async with asyncio.timeout(5):
                    assert len(await reader.read(2**21)) < 2**21
                    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                        await reader.readexactly(2**21)


async def _polling(http: aiohttp.ClientSession, url: str, services: Services) -> tuple[Polling, str]:
    """A client that polls, and the session that it has joined."""
    client = Polling(http, url)
    await client.open()
    await client.post(b"40")
    await client.until('40{"sid"')
    await client.post(b'42["user:join",{"userId":"polls"}]')
    await client.until("user:joined")
    return client, "s-" + (await services.wait_for("join"))["socket"]


def test_one_client_may_not_have_more_than_all() -> None:
    with pytest.raises(ValueError, match="UNREAD_TOTAL_MB"):
        Settings(unread_max_kb=2048, unread_total_mb=1)
