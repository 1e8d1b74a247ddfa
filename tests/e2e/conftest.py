"""Fixtures of the end-to-end tests: clusters that live as long as the session, and a stage on one for each test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage
from tests.support.shared_clusters import Clusters

SHAPES = ("1x1x1", "2x2x2x3")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clusters(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clusters]:
    """Clusters by their settings, each started when first asked for."""
    running = Clusters(tmp_path_factory)
    yield running
    await running.stop()


@pytest.fixture(params=SHAPES, scope="session")
def shape(request: pytest.FixtureRequest) -> str:
    """gateways × callcores × presences, × NATS servers where that is not one."""
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(clusters: Clusters, shape: str, kind: str, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Clients of ``kind`` on a cluster of ``shape``."""
    async for stage in Stage.on(await clusters.get(shape), kind, driver):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def hasty(clusters: Clusters, shape: str, kind: str, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """The same where calls ring for two seconds only."""
    async for stage in Stage.on(await clusters.get(shape, ring_seconds=2), kind, driver):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def big(clusters: Clusters) -> Cluster:
    """Two of each service."""
    return await clusters.get("2x2x2")
