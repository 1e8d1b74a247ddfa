"""The heartbeat of a websocket: only a pong to a ping that has left for the client is a sign of life."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest_asyncio

from services.gateway.websocket.framing import Writing
from services.gateway.websocket.heartbeat import Heartbeat
from services.gateway.websocket.send_queue import SendQueue
from services.gateway.websocket.writer import Stage
from tests.unit.gateway.test_websocket_writer import Line

PING = b"\x81\x012"
INTERVAL, TIMEOUT = 0.02, 0.05


class Beat(Heartbeat):
    """An open websocket. ``silent``: set once its client is given up."""

    def __init__(self) -> None:
        server = SimpleNamespace(ping_interval=INTERVAL, ping_timeout=TIMEOUT)
        connection = SimpleNamespace(queue=SendQueue(), closed=False, server=server, last_ping=None)
        super().__init__(connection, Stage.OPEN, Writing())
        self.line = Line()
        self._transport = cast(Any, self.line)
        self._queue.websocket = self
        self.silent = asyncio.Event()
        self._set_timer(INTERVAL)

    def _silent(self) -> None:
        self.silent.set()

    async def until_asked(self) -> None:
        async with asyncio.timeout(5):
            while not self.asked:
                await asyncio.sleep(0)
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def beat() -> AsyncIterator[Beat]:
    beat = Beat()
    yield beat
    beat._stop_timer()


async def test_a_pong_to_a_ping_that_has_left_keeps_it(beat: Beat) -> None:
    for _ in range(5):
        await beat.until_asked()
        assert beat.line.written[-1] == PING
        assert beat._pong() and not beat.asked
    assert not beat.silent.is_set()


async def test_a_pong_to_a_ping_that_waits_does_not(beat: Beat) -> None:
    beat.pause_writing()
    await beat.until_asked()
    assert PING not in beat.line.written and not beat._queue.empty()
    async with asyncio.timeout(5):
        while not beat.silent.is_set():
            assert not beat._pong() and beat.asked
            await asyncio.sleep(INTERVAL / 4)


async def test_a_pong_to_a_ping_in_the_buffer_does_not(beat: Beat) -> None:
    beat.line.buffered = 1
    await beat.until_asked()
    assert beat.line.written == [PING]
    assert not beat._pong() and beat.asked
    async with asyncio.timeout(5):
        await beat.silent.wait()


async def test_pongs_to_no_ping_put_nothing_off(beat: Beat) -> None:
    timer = beat._timer
    for _ in range(10):
        assert not beat._pong()
    assert beat._timer is timer
    await beat.until_asked()
    assert beat._pong()
