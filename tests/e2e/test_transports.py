"""Transports that break while the official client uses them, and upgrades in the middle of a call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.test_resume import got, resume, send
from tests.support.client import POLLING, Client
from tests.support.cluster import Cluster
from tests.support.http_proxy import Fault, HttpProxy
from tests.support.node_client import NodeClient, NodeDriver
from tests.support.proxy import Proxy
from tests.support.scenario import NODE, PYTHON, Stage, end, talk, usable
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

WINDOW = 20
SETTINGS = {"RESUME_WINDOW_SECONDS": str(WINDOW), "PING_INTERVAL_SECONDS": "2", "PING_TIMEOUT_SECONDS": "2"}
CLOSE = b"1"
UPGRADING = "polling+websocket"


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> Cluster:
    """Two of each service, and pings often enough to miss one."""
    return await clusters.get("2x2x2", **SETTINGS)


@pytest.fixture
def library() -> str:
    """The library of the clients."""
    return NODE


@pytest_asyncio.fixture(loop_scope="session")
async def stage(library: str, cluster: Cluster, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Clients that poll."""
    async for stage in Stage.on(cluster, usable(f"{library}-{POLLING}"), driver):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(cluster: Cluster) -> AsyncIterator[HttpProxy]:
    """What the client reaches its gateway through, until it breaks."""
    proxy = HttpProxy(cluster.gateways[1].port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def through(stage: Stage, name: str, url: str) -> Client:
    """A joined client of the stage that takes another way to its gateway."""
    client = await stage.socket(name, url=url)
    await client.join(stage.id(name))
    return client


LOSSES: tuple[Fault, ...] = ("502", "502-lost", "reset", "reset-lost")
FAULTS = [
    *((NODE, method, fault) for method in ("GET", "POST") for fault in (*LOSSES, "hang")),
    # Of these it outlives the loss of a body, and a reset (its HTTP client polls again by itself).
    *((PYTHON, "GET", fault) for fault in ("502", "502-lost", "hang")),
]


@pytest.mark.parametrize(("library", "method", "fault"), FAULTS)
async def test_a_call_outlives_a_polling_request_that_fails(
    stage: Stage, proxy: HttpProxy, method: str, fault: Fault
) -> None:
    """The library gives up its connection for one request, and says so with a close packet."""
    alice = await stage.user("alice", gateway=0)
    bob = await through(stage, "bob", proxy.url)
    call = await talk(alice, bob)
    await send(alice, bob.user, call, range(3))
    await got(bob, range(3))
    proxy.fail(method, fault)
    await send(alice, bob.user, call, range(3, 4))  # ends the poll that is there
    if method == "POST":
        await bob.emit("user:status", {"userId": "x"})
    await bob.expect_closed(20)
    if stage.library == NODE:
        async with asyncio.timeout(5):
            while CLOSE not in proxy.bodies:
                await asyncio.sleep(0.02)
    missed = len([r for r in bob.inbox.all if r.event == "ice:candidate"])
    await send(alice, bob.user, call, range(4, 8))
    await alice.settle()
    assert not alice.inbox.leftovers(), "the peer hears nothing of it"
    for event in ("ice:candidate", "user:status"):
        await bob.inbox.expect_many(event, 0)  # whatever has come of it
    again = await stage.socket("bob'", gateway=0)
    joined = await again.join(bob.user, resume=resume(bob))
    assert joined["resumed"] is True and joined["sessionId"] == bob.session
    await got(again, range(missed, 8))
    await send(again, alice.user, call, range(3))
    await got(alice, range(3))
    await end(again, alice, call=call)


@pytest.mark.parametrize(("library", "fault"), [(PYTHON, "reset"), (PYTHON, "reset-lost")])
async def test_a_poll_that_an_http_client_sends_again_loses_nothing(
    stage: Stage, proxy: HttpProxy, fault: Fault
) -> None:
    """As a browser does when a connection that was open breaks before any of the answer has come."""
    alice = await stage.user("alice", gateway=0)
    bob = await through(stage, "bob", proxy.url)
    call = await talk(alice, bob)
    proxy.fail("GET", fault)
    for n in range(6):
        await send(alice, bob.user, call, range(n, n + 1))
        await asyncio.sleep(0.1)
    await got(bob, range(6))
    assert proxy.failed[fault] == 1 and not bob.closed.is_set()
    await send(bob, alice.user, call, range(3))
    await got(alice, range(3))
    await end(bob, alice, call=call)


async def test_leaving_in_the_midst_of_a_failure_is_still_leaving(stage: Stage, proxy: HttpProxy) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = await through(stage, "bob", proxy.url)
    call = await talk(alice, bob)
    await bob.disconnect()
    ended = await alice.expect("call:ended", timeout=5)
    assert (ended["callId"], ended["reason"]) == (call, "hangup")


# --- upgrades -----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def upgrading(cluster: Cluster, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Official clients with their default transports."""
    async for stage in Stage.on(cluster, usable(f"{NODE}-{UPGRADING}"), driver):
        yield stage


async def upgraded(client: Client) -> None:
    assert isinstance(client, NodeClient)
    async with asyncio.timeout(10):
        while await client.transport_in_use() != "websocket":
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.25])
async def test_a_call_in_the_midst_of_upgrades_misses_nothing(
    upgrading: Stage, cluster: Cluster, delay: float
) -> None:
    """Both connect, call, and send what they have at once, while each is on its way from polling to a websocket."""
    stage, proxies = upgrading, [Proxy(gateway.port) for gateway in cluster.gateways]
    try:
        for proxy in proxies:
            await proxy.start()
            proxy.delay(delay)
        alice, bob = await asyncio.gather(
            through(stage, "alice", proxies[0].url), through(stage, "bob", proxies[1].url)
        )
        call = await talk(alice, bob)

        async def both(numbers: range) -> None:
            for n in numbers:
                await asyncio.gather(
                    send(alice, bob.user, call, range(n, n + 1)), send(bob, alice.user, call, range(n, n + 1))
                )

        await both(range(60))
        await asyncio.gather(upgraded(alice), upgraded(bob))
        await both(range(60, 80))
        await asyncio.gather(got(alice, range(80)), got(bob, range(80)))
        await end(alice, bob, call=call)
        await stage.end()
        await stage.leave()
    finally:
        await asyncio.gather(*(proxy.stop() for proxy in proxies))


async def test_an_upgrade_that_is_torn_leaves_the_call_alone(upgrading: Stage, cluster: Cluster) -> None:
    """A proxy that has no websockets: the client goes on polling."""
    stage = upgrading
    proxy = NoWebsockets(cluster.gateways[1].port)
    await proxy.start()
    try:
        alice = await stage.user("alice", gateway=0)
        bob = await through(stage, "bob", proxy.url)
        call = await talk(alice, bob)
        await send(alice, bob.user, call, range(20))
        await got(bob, range(20))
        async with asyncio.timeout(10):
            while not proxy.tried:
                await asyncio.sleep(0.02)
        await send(bob, alice.user, call, range(20))
        await got(alice, range(20))
        await end(bob, alice, call=call)
        await stage.end()
        await stage.leave()
    finally:
        await proxy.stop()


class NoWebsockets(HttpProxy):
    """Lets a websocket begin, and breaks it."""

    tried = 0

    async def _websocket(self, request: Any) -> Any:
        assert self._http is not None
        ours = await self._http.ws_connect(self._to + request.path_qs)
        await ours.send_str("2probe")
        await asyncio.sleep(0.1)
        ours._response.connection.transport.abort()  # type: ignore[union-attr]
        request.transport.abort()
        self.tried += 1
        return await self._broken()

    async def _broken(self) -> Any:
        raise ConnectionResetError
