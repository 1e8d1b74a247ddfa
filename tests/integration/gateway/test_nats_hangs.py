"""A NATS server that hangs, its connections open: clients are told within a second, and nothing is lost by it."""

import asyncio
import os
import signal
import time

import aiohttp

from shared.bus import Bus
from shared.pulse import EVERY_SECONDS, LATE_SECONDS, Pulse
from signalling.nats_server import EmbeddedNats
from tests.integration.gateway.conftest import Connect, Services, Start

SECONDS = 1.0
MARGIN_SECONDS = 0.5
"""For a machine that has other things to do; without a pulse it takes four seconds."""


async def _ready(url: str, path: str = "readyz") -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/{path}") as answer:
        return answer.status, await answer.text()


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(5):
        while (await _ready(url))[0] != 200:
            await asyncio.sleep(0.05)


async def test_requests_fail_within_a_second_and_work_again(
    gateway: Start, connect: Connect, nats_server: EmbeddedNats, services: Services
) -> None:
    url = await gateway(request_timeout_seconds=2)
    await services.beat("presence", "pr")
    alice = await connect(url, "alice")
    await _until_ready(url)
    pid = nats_server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):  # the first finds out, the second knows
            begun = time.monotonic()
            assert (await alice.refused("user:status", {"userId": "bob"}))["code"] == "unavailable"
            assert time.monotonic() - begun < SECONDS + MARGIN_SECONDS
        status, said = await _ready(url)
        assert status == 503 and "NATS" in said
        assert (await _ready(url, "healthz"))[0] == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    await _until_ready(url)
    await services.beat("presence", "pr")
    assert (await alice.ok("user:status", {"userId": "bob"}))["userId"] == "bob"


async def test_a_pause_of_the_service_itself_is_no_pause_of_nats(bus: Bus) -> None:
    pulse = Pulse(bus)
    pulse.start()
    try:
        for _ in range(4):
            await asyncio.sleep(EVERY_SECONDS + 0.01)  # a ping is under way or about to be
            time.sleep(LATE_SECONDS * 1.5)
            for _ in range(10):
                await asyncio.sleep(0)
                assert bus.connected
    finally:
        await pulse.stop()
