"""The NATS server is killed in the middle of calls and comes back: sockets stay, and everything is as it was."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.client import Client
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage, end, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PAIRS = 10
PATIENCE = 30.0


@pytest_asyncio.fixture(loop_scope="session")
async def stage(clusters: Clusters, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    cluster = await clusters.get("2x2x2", ring_seconds=8, SWEEP_SECONDS="2")
    async for stage in Stage.crowd(cluster, driver):
        yield stage
        # A server killed without replicas can forget a deletion; the sweep puts that right.
        cluster.allowed = ("reconciled: ",)


async def _statuses(url: str) -> tuple[int, int]:
    """(``/healthz``, ``/readyz``)"""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/healthz") as health,
        http.get(f"{url}/readyz") as ready,
    ):
        return health.status, ready.status


async def _candidates(sender: Client, receiver: Client, call: str, numbers: range) -> None:
    for n in numbers:
        candidate = {"candidate": {"n": n}, "from": sender.user, "to": receiver.user, "callId": call}
        await sender.emit("ice:candidate", candidate)
    got = [await receiver.expect("ice:candidate", timeout=PATIENCE) for _ in numbers]
    assert [message["candidate"]["n"] for message in got] == list(numbers)


async def test_calls_outlive_an_absence_of_nats(stage: Stage) -> None:
    pairs = await stage.pairs(PAIRS)
    calls = await asyncio.gather(*(talk(alice, bob) for alice, bob in pairs))
    url = stage.cluster.gateways[0].url
    stage.cluster.kill_nats()
    try:
        begin = time.monotonic()
        acks = await asyncio.gather(*(a.ask("user:status", {"userId": b.user}) for a, b in pairs))
        assert time.monotonic() - begin < 2
        assert {(ack["error"]["code"], ack["error"]["retryable"]) for ack in acks} == {("unavailable", True)}
        for alice, _ in pairs:
            assert (await alice.expect("error"))["code"] == "unavailable"
        assert await _statuses(url) == (200, 503)
    finally:
        stage.cluster.restart_nats()
    await stage.cluster.ready()
    async with asyncio.timeout(PATIENCE):
        while await _statuses(url) != (200, 200):
            await asyncio.sleep(0.1)
    for (alice, bob), call in zip(pairs, calls, strict=True):
        status = await alice.ok("user:status", {"userId": bob.user})
        assert (status["isOnline"], status["isInCall"]) == (True, True)
        await alice.expect("user:status")
        await _candidates(alice, bob, call, range(10))
        await _candidates(bob, alice, call, range(10))
        await end(alice, bob, call=call)
    assert not any(client.closed.is_set() for pair in pairs for client in pair)
