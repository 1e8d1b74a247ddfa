"""Apps written for the old HelloTalk server go through their calls unchanged, however they connect."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver, missing
from tests.support.old_app import SCENARIOS, WAYS, NodeOldApp, Open, talk
from tests.support.shared_clusters import Clusters

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

ORIGIN = "http://app.example:3000"
UPGRADED = {
    "default": "websocket",
    "websocket": "websocket",
    "polling": "polling",
    "websocket-polling": "websocket",
}
SHAPES = ("1x1x1", "2x2x2")


@pytest_asyncio.fixture(loop_scope="session", params=SHAPES)
async def cluster(clusters: Clusters, request: pytest.FixtureRequest) -> Cluster:
    return await clusters.get(request.param, CLIENT_URL=ORIGIN)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How apps connect."""
    return str(request.param)


class Apps:
    """Opens apps, one after the other on different gateways, and closes them."""

    def __init__(self, cluster: Cluster, driver: NodeDriver, way: str) -> None:
        self._cluster = cluster
        self._driver = driver
        self._way = way
        self._token = secrets.token_hex(4)
        self.all: list[NodeOldApp] = []

    async def open(self, name: str, *, user: str | None = None, **habits: Any) -> NodeOldApp:
        """An app of a user that no other test has, or of ``user``."""
        number = len(self.all)
        app = NodeOldApp(self._driver, f"old-{name}-{number}-{self._token}", user or f"{name}-{self._token}")
        self.all.append(app)
        gateway = self._cluster.gateways[number % len(self._cluster.gateways)]
        options = {**WAYS[self._way], "extraHeaders": {"Origin": ORIGIN}}
        await app.start(gateway.url, options, habits)
        assert await app.do("joined")
        return app

    async def close(self) -> None:
        """Close all of them."""
        for app in self.all:
            await app.close()


@pytest_asyncio.fixture(loop_scope="session")
async def apps(cluster: Cluster, driver: NodeDriver, way: str) -> AsyncIterator[Apps]:
    apps = Apps(cluster, driver, way)
    yield apps
    await apps.close()
    await cluster.assert_quiet()
    cluster.check_logs()


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_an_old_app(apps: Apps, way: str, scenario: str) -> None:
    open_: Open = apps.open
    await SCENARIOS[scenario](open_)
    for app in apps.all:
        if (await app.do("snapshot"))["connected"]:
            await app.do("transportIs", UPGRADED[way])


async def test_join_without_a_user(apps: Apps) -> None:
    """The first error that an old app may get, in the words of the old server."""
    app = await apps.open("alice")
    await app.do("raw", "user:join", {})
    assert (await app.nth("error"))["message"] == "User ID is required"
    await app.settle()


async def test_a_second_app_of_the_user_replaces_the_first(
    clusters: Clusters, driver: NodeDriver, way: str
) -> None:
    """With ``SESSION_POLICY=single``, as in the old server: the first is disconnected, and stays so."""
    cluster = await clusters.get("2x2x2", CLIENT_URL=ORIGIN, SESSION_POLICY="single")
    apps = Apps(cluster, driver, way)
    bob = await apps.open("bob")
    first = await apps.open("alice")
    second = await apps.open("alice", user=first.user)
    assert await first.do("disconnected") == "io server disconnect"
    await talk(bob, second)
    await bob.do("end")
    await second.nth("call:ended")
    await asyncio.sleep(2)  # a client that comes back by itself does so within 1.5 s
    assert not (await first.do("snapshot"))["connected"] and await first.count("call:incoming") == 0
    assert (await second.do("snapshot"))["connected"] and not (await second.do("snapshot"))["disconnects"]
    await apps.close()
    await cluster.assert_quiet()
    cluster.check_logs()
