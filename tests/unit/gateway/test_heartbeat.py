"""The heartbeat of a websocket: only a pong to a ping that has left for the client is a sign of life."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.gateway.websocket_client import Client

PING = b"\x81\x012"
INTERVAL, TIMEOUT = 0.02, 0.05


class Beat(Client):
    """An open websocket with a short heartbeat."""

    def __init__(self) -> None:
        super().__init__(interval=INTERVAL, timeout=TIMEOUT)
        self.websocket._set_timer(INTERVAL)

    def pong(self) -> bool:
        """Receive a pong. Return True if it answers a ping."""
        before = self.server.pongs
        self.says("3")
        return self.server.pongs > before

    @property
    def given_up(self) -> bool:
        """True once the client has been silent for too long."""
        return self.server.aborted == ["ping_timeout"] and self.transport.aborted

    async def until_pinged(self) -> None:
        async with asyncio.timeout(5):
            while not self.websocket.awaits_pong:
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def until_given_up(self) -> None:
        async with asyncio.timeout(5):
            while not self.given_up:
                await asyncio.sleep(INTERVAL / 4)


@pytest_asyncio.fixture
async def beat() -> AsyncIterator[Beat]:
    beat = Beat()
    yield beat
    beat.stop()


async def test_a_pong_to_a_ping_that_has_left_keeps_it(beat: Beat) -> None:
    for _ in range(5):
        await beat.until_pinged()
        assert beat.transport.written[-1] == PING
        assert beat.pong() and not beat.websocket.awaits_pong
    assert not beat.given_up


async def test_a_pong_to_a_ping_that_waits_does_not(beat: Beat) -> None:
    beat.websocket.pause_writing()
    await beat.until_pinged()
    assert PING not in beat.transport.written and not beat.queue.empty()
    async with asyncio.timeout(5):
        while not beat.given_up:
            assert not beat.pong() and beat.websocket.awaits_pong
            await asyncio.sleep(INTERVAL / 4)


async def test_a_pong_to_a_ping_in_the_buffer_does_not(beat: Beat) -> None:
    beat.transport.buffered = 1
    await beat.until_pinged()
    assert beat.transport.written == [PING]
    assert not beat.pong() and beat.websocket.awaits_pong
    await beat.until_given_up()


async def test_pongs_to_no_ping_put_nothing_off(beat: Beat) -> None:
    timer = beat.websocket._timer
    for _ in range(10):
        assert not beat.pong()
    assert beat.websocket._timer is timer
    await beat.until_pinged()
    assert beat.pong()


async def test_a_client_whose_frames_wait_to_be_read_is_not_given_up(beat: Beat) -> None:
    await beat.until_pinged()
    beat.websocket.pause_reading()
    await asyncio.sleep(3 * TIMEOUT)
    assert not beat.given_up
    beat.websocket.resume_reading()
    await beat.until_given_up()
