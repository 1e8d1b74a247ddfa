"""A NATS server that hangs, its connections open: clients are told within a second, and nothing is lost by it."""

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import uvloop

from shared.nats.connection import Bus
from shared.nats.hang_detector import EVERY_SECONDS, LATE_SECONDS, HangDetector
from signalling.run.nats_server import EmbeddedNats
from tests.integration.gateway.conftest import Connect, Services, Start
from tests.support.hanging_nats import freeze

SECONDS = 1.0
MARGIN_SECONDS = 0.5
"""For a machine that has other things to do; without a pulse it takes four seconds."""


async def _ready(url: str, path: str = "readyz") -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/{path}") as answer:
        return answer.status, await answer.text()


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(30):
        while (await _ready(url))[0] != 200:
            await asyncio.sleep(0.05)


async def test_requests_fail_within_a_second_and_work_again(
    gateway: Start, connect: Connect, nats_server: EmbeddedNats, services: Services
) -> None:
    url = await gateway(request_timeout_seconds=2)
    await services.beat("presence", "pr")
    alice = await connect(url, "alice")
    await _until_ready(url)
    pid = freeze(nats_server)
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


def test_a_pause_of_the_service_itself_is_no_pause_of_nats(tmp_path: Path) -> None:
    """On the loop that services run on, whose timers go before what there is to read."""

    async def pause_after_each_ping() -> None:
        bus = await Bus.connect(server.url, name="test")
        hang_detector, ping = HangDetector(bus), bus.ping
        alarms: list[bool] = []

        async def ping_and_pause() -> asyncio.Future[bool] | None:
            pong = await ping()
            asyncio.get_running_loop().call_soon(time.sleep, LATE_SECONDS * 1.5)
            return pong

        bus.ping, bus.hangs = ping_and_pause, alarms.append  # type: ignore[method-assign]
        hang_detector.start()
        await asyncio.sleep(4 * (EVERY_SECONDS + LATE_SECONDS * 1.5))
        await hang_detector.stop()
        await bus.close()
        assert True not in alarms

    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(pause_after_each_ping())
    finally:
        server.kill()
