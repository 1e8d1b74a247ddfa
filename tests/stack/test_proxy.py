"""The proxy: polling stays with its gateway, upgrades go where the polling was, only ready gateways are used."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import aiohttp
import pytest

from tests.stack.engine import docker
from tests.stack.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

SESSIONS = 24
UNTIL_SECONDS = 60.0
POLLING = "/socket.io/?EIO=4&transport=polling"


async def _handshake(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(f"{url}{POLLING}") as answer:
        assert answer.status == 200
        opened = json.loads((await answer.text())[1:])
    assert "websocket" in opened["upgrades"]
    return str(opened["sid"])


async def test_polling_stays_with_its_gateway(stack: Stack) -> None:
    url = stack.gateways[0].url
    await stack.ready()
    # A new client goes where fewest are: those of earlier tests have to be gone.
    await _until(lambda: not any(_column(stack, "scur").values()), "nobody else is connected")
    before = _column(stack, "stot")
    # No cookies: clients that are no browsers have none.
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        for _ in range(SESSIONS):
            address = f"{url}{POLLING}&sid={await _handshake(http, url)}"
            for body in ("40", "3"):
                async with http.post(address, data=body) as answer:
                    assert answer.status == 200, await answer.text()
            async with http.get(address) as answer:
                assert answer.status == 200 and (await answer.text()).startswith("40{")
    used = {name: count - before[name] for name, count in _column(stack, "stot").items()}
    assert sum(count > SESSIONS for count in used.values()) == 2, f"both gateways had their part: {used}"


async def test_an_upgrade_reaches_the_gateway_of_the_polling(stack: Stack) -> None:
    url = stack.gateways[0].url
    async with aiohttp.ClientSession() as http:
        for _ in range(SESSIONS):
            sid = await _handshake(http, url)
            async with http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket&sid={sid}") as socket:
                await socket.send_str("2probe")
                assert (await socket.receive_str(timeout=5)) == "3probe"


async def test_an_id_that_nobody_gave_is_refused(stack: Stack) -> None:
    assert stack.get(f"{POLLING}&sid=nobody")[0] == 400


async def test_a_gateway_that_is_not_ready_gets_nobody_new_and_keeps_who_it_has(stack: Stack) -> None:
    """Call control is out of reach for all gateways: who is connected stays, nobody else gets in, until it is back."""
    url = stack.gateways[0].url
    async with aiohttp.ClientSession() as http:
        address = f"{url}{POLLING}&sid={await _handshake(http, url)}"
        frozen = stack.containers("callcore")
        for container in frozen:
            docker("pause", container.id)
        try:
            await _until(lambda: stack.get(POLLING)[0] == 503, "closed to new ones")
            async with http.post(address, data="40") as answer:
                assert answer.status == 200
        finally:
            for container in frozen:
                docker("unpause", container.id)
        await stack.ready()
        assert stack.get(POLLING)[0] == 200


async def _until(check: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(UNTIL_SECONDS):
            while not await asyncio.to_thread(check):
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"not within {UNTIL_SECONDS} s: {what}") from None


def _column(stack: Stack, name: str) -> Counter[str]:
    """What the proxy says of each gateway: ``stot``, its requests so far; ``scur``, those under way."""
    return Counter(
        {
            r["svname"]: int(r[name])
            for r in stack.proxy_state()
            if r["pxname"] == "gateways" and r["svname"] != "BACKEND"
        }
    )
