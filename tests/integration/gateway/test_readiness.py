"""``/readyz`` is 200 only when a client could join, says what is missing, and its changes are in the log once each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from structlog.typing import EventDict

from services.gateway.app import start
from services.gateway.readiness import Readiness
from services.gateway.settings import Settings
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start
from tests.support.cluster import free_port
from tests.support.issuer import Issuer, Pair, claims
from tests.support.logged import Logged


async def asked(url: str) -> tuple[int, list[str]]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as answer:
        return answer.status, (await answer.json())["missing"]


async def until(url: str, *missing: str, timeout: float = 8) -> None:
    """Wait until exactly that is missing."""
    try:
        async with asyncio.timeout(timeout):
            while (said := await asked(url)) != (503 if missing else 200, list(missing)):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(said) from None


@asynccontextmanager
async def beating(services: Services) -> AsyncIterator[None]:
    """Call control is there for all of it."""

    async def beat() -> None:
        while True:
            await services.beat("callcore", "cc")
            await asyncio.sleep(1)

    task = asyncio.create_task(beat())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lease_that_is_not_renewed(gateway: Start, connect: Connect, services: Services) -> None:
    url = await gateway()
    async with beating(services):
        services.answers["renew"] = ("unavailable", "no room")
        await until(url, "presence does not renew the lease")
        del services.answers["renew"]
        await until(url)
        await connect(url, "alice")


async def test_a_presence_that_is_there_and_does_not_answer(gateway: Start, services: Services) -> None:
    url = await gateway()
    async with beating(services):
        services.slow["renew"] = 3
        await until(url, "presence does not renew the lease")
        services.slow.clear()
        await until(url, timeout=15)


async def test_a_service_that_is_not_there(gateway: Start, services: Services) -> None:
    await until(await gateway(), "no callcore is there")


async def test_keys_for_tokens_that_have_not_been_read(
    nats_url: str, services: Services, connect: Connect
) -> None:
    one, port = Pair("ES256"), free_port()
    url = f"http://127.0.0.1:{port}"
    async with Issuer(one).running() as issuer, beating(services):
        issuer.status = 503
        config = {"nats_url": nats_url, "port": port, "auth_mode": "jwt", "jwt_jwks_url": issuer.url}
        async with start(Settings.model_validate({**config, "drain_seconds": 0}), GATEWAY):
            await until(url, "no keys for tokens have been read yet")
            client = await connect(url)
            token = one.sign(claims())
            await client.refused("user:join", {"userId": "alice", "token": token}, code="unavailable")
            issuer.status = 200
            await until(url)
            await client.ok("user:join", {"userId": "alice", "token": token})
            issuer.status = 503
            await asyncio.sleep(0.2)
            assert (await asked(url))[0] == 200, "what was read counts"


async def test_changes_are_in_the_log_once_each(
    gateway: Start, services: Services, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setitem(Readiness.__init__.__kwdefaults__, "starting", 0.5)
    monkeypatch.setitem(Readiness.__init__.__kwdefaults__, "quiet", 0.0)
    url = await gateway()
    async with beating(services):
        await asyncio.sleep(1)
        logged.clear()
        services.answers["renew"] = ("unavailable", "no room")
        await until(url, "presence does not renew the lease")
        await asyncio.sleep(1.5)
        del services.answers["renew"]
        await until(url)
        await asyncio.sleep(1.5)
    missed, ready = [line for line in logged.entries if line["event"] in ("not ready", "ready")]
    assert (missed["log_level"], missed["event"]) == ("warning", "not ready")
    assert missed["missing"] == ["presence does not renew the lease"]
    assert (ready["log_level"], ready["event"]) == ("info", "ready")
    assert ready["was_missing"] == ["presence does not renew the lease"]


def test_changes_in_quick_succession_share_a_line(logged: Logged) -> None:
    now: list[str] = []
    one = Readiness(lambda: list(now), quiet=10)

    def look(at: float) -> EventDict | None:
        logged.clear()
        one._look(at)
        assert len(logged.entries) < 2
        return logged.entries[0] if logged.entries else None

    def missing(at: float) -> list[str]:
        line = look(at)
        assert line is not None and line["event"] == "not ready"
        found: list[str] = line["missing"]
        return found

    assert look(0) is None
    now = ["NATS is out of reach"]
    assert missing(1) == ["NATS is out of reach"]
    for second in range(2, 11):
        now = ["no presence is there"] if second % 2 else []
        assert look(second) is None
    line = look(11)
    assert line is not None
    assert line["event"] == "ready", "the last look found nothing missing"
    assert line["was_missing"] == ["NATS is out of reach", "no presence is there"]
    assert line["changes"] == 9
    assert look(30) is None, "nothing has changed since"
    now = ["draining"]
    assert missing(31) == ["draining"]
