"""Connections that say nothing: whose session is taken over, whose token is still good, and who is left alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.test_resume import SETTINGS, resume, send
from tests.integration.gateway.test_garbage import Polling
from tests.support.client import Client
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.python_client import PythonClient
from tests.support.raw_client import RawClient
from tests.support.scenario import PYTHON, Stage, end, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

OFFER = {"type": "offer", "sdp": "v=0"}


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> Cluster:
    return await clusters.get("2x2x2", **SETTINGS)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(cluster: Cluster) -> AsyncIterator[Stage]:
    async for stage in Stage.on(cluster, f"{PYTHON}-websocket", None):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(cluster: Cluster) -> AsyncIterator[Proxy]:
    """In front of the second gateway."""
    proxy = Proxy(cluster.gateways[1].port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def behind(stage: Stage, proxy: Proxy, transport: str, **extra: Any) -> Client:
    """Bob, in front of whose gateway the proxy is."""
    bob = PythonClient("bob", transport)
    await bob.connect(proxy.url)
    await bob.join(stage.id("bob"), **extra)
    return bob


async def talks(caller: Client, callee: Client, call: str) -> None:
    """An offer, an answer and candidates both ways."""
    for sender, receiver in ((caller, callee), (callee, caller)):
        envelope = {"from": sender.user, "to": receiver.user, "callId": call}
        await sender.ok("call:offer", {"offer": OFFER, **envelope})
        await receiver.expect("call:offer", callId=call)
        await send(sender, receiver.user, call, range(2))
        for n in range(2):
            await receiver.expect("ice:candidate", candidate={"n": n})


async def took_over(stage: Stage, alice: Client, bob: Client, call: str, **extra: Any) -> Client:
    """Bob comes to the other gateway: his session goes on, with its call."""
    page = await stage.socket("bob'", gateway=0)
    begun = time.monotonic()
    joined = await page.join(bob.user, **extra)
    assert time.monotonic() - begun < 3, "bounded"
    assert joined["sessionId"] == bob.session and not joined["resumed"]
    assert joined["call"] == {"callId": call, "peer": alice.user, "callType": "audio", "state": "accepted"}
    return page


@pytest.mark.parametrize("extra", [{}, {"deviceId": "tablet"}], ids=["no device", "another device"])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_phone_that_changes_its_network(
    stage: Stage, proxy: Proxy, transport: str, extra: dict[str, Any]
) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = await behind(stage, proxy, transport, **({"deviceId": "phone"} if extra else {}))
    call = await talk(alice, bob)
    proxy.half_open()
    await send(alice, bob.user, call, range(10, 13))  # which nobody hears
    page = await took_over(stage, alice, bob, call, **extra)
    for n in range(10, 13):
        await page.expect("ice:candidate", candidate={"n": n})
    await talks(alice, page, call)
    await end(alice, page, call=call)
    if transport == "websocket":
        await bob.tear()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_one_that_answers_keeps_its_session(stage: Stage, transport: str) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = PythonClient("bob", transport)
    stage.clients.append(bob)
    await bob.connect(stage.cluster.gateways[1].url)
    await bob.join(stage.id("bob"))
    call = await talk(alice, bob)
    tablet = await stage.socket("tablet", gateway=0)
    begun = time.monotonic()
    joined = await tablet.join(bob.user)
    assert time.monotonic() - begun < 0.5, "not delayed noticeably"
    assert joined["sessionId"] != bob.session and "call" not in joined
    await talks(alice, bob, call)
    await end(bob, alice, call=call)
    assert [r.event for r in tablet.inbox.all] == ["user:joined"]


@pytest.mark.parametrize("fault", ["paused", "killed"])
async def test_the_gateway_of_the_old_connection_does_not_answer(stage: Stage, fault: str) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = PythonClient("bob", "websocket")
    await bob.connect(stage.cluster.gateways[1].url)
    await bob.join(stage.id("bob"))
    call = await talk(alice, bob)
    if fault == "paused":
        stage.cluster.pause_one("gw-2")
    else:
        stage.cluster.kill("gw-2")
    try:
        page = await took_over(stage, alice, bob, call)
        await talks(alice, page, call)
    finally:
        if fault == "paused":
            stage.cluster.resume_one("gw-2")
            await bob.expect("session:replaced")
        else:
            stage.cluster.restart("gw-2")
            await stage.cluster.ready()
    await talks(alice, page, call)
    await end(alice, page, call=call)


class Deaf(RawClient):
    """A client whose downstream is swallowed: it answers no ping, and never knows what it was told."""

    async def send(self, frame: str | bytes) -> None:
        if frame != "3":
            await super().send(frame)


async def _deaf_polling(http: aiohttp.ClientSession, url: str, user: str, known: dict[str, Any]) -> None:
    """A client that polls, whose join arrives, and which gets nothing more."""
    polling = Polling(http, url)
    await polling.open()
    await polling.post(b"40")
    await polling.until('40{"sid"')
    await polling.post(f"42{json.dumps(['user:join', {'userId': user, 'resume': known}])}".encode())


@pytest.mark.parametrize("pause", [0.7, 0.15])
@pytest.mark.parametrize("hops", [1, 2, 3, 4])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_same_token_on_one_gateway_after_the_other(
    stage: Stage, transport: str, hops: int, pause: float
) -> None:
    alice, bob = await stage.user("alice", gateway=0), await stage.user("bob", gateway=1)
    call = await talk(alice, bob)
    known = resume(bob)
    await bob.tear()
    deaf: list[Deaf] = []
    async with aiohttp.ClientSession() as http:
        for hop in range(hops):
            url = stage.cluster.gateways[hop % 2].url
            if transport == "websocket":
                deaf.append(Deaf(f"deaf{hop}"))
                await deaf[-1].connect(url)
                await deaf[-1].emit("user:join", {"userId": bob.user, "resume": known})
            else:
                await asyncio.wait_for(_deaf_polling(http, url, bob.user, known), 5)
            await asyncio.sleep(pause)
        page = await stage.socket("bob'", gateway=hops % 2)
        joined = await page.join(bob.user, resume=known)
        assert (joined["resumed"], joined["sessionId"]) == (True, bob.session)
        assert joined["call"]["callId"] == call
        await talks(alice, page, call)
        await end(alice, page, call=call)
        for client in deaf:
            await client.close()


async def test_a_token_whose_successor_was_heard_is_spent(stage: Stage) -> None:
    bob = await stage.user("bob", gateway=1)
    known = resume(bob)
    again = PythonClient("again", "polling")
    stage.clients.append(again)
    await again.connect(stage.cluster.gateways[0].url)
    assert (await again.join(bob.user, resume=known))["resumed"]
    await bob.expect("session:replaced")
    begun = time.monotonic()
    thief = await stage.socket("thief", gateway=1)
    joined = await thief.join(bob.user, resume=known)
    assert not joined["resumed"] and joined["sessionId"] != bob.session
    assert time.monotonic() - begun < 0.5, "a client that polls answers its ping, too"
