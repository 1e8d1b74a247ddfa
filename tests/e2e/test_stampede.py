"""A thousand clients lose their gateway at once and come back to the other; who joins meanwhile hardly notices."""

import asyncio
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.clusters import Clusters
from tests.support.phone import Phone

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

CLIENTS = 1_000
AT_ONCE = 50
WINDOW, LEASE = 30, 6
JITTER = 12.0
"""Over how many seconds the clients come back, which a good one leaves to chance."""


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> AsyncIterator[Cluster]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CLIENTS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} files may be open, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    cluster = await clusters.get("2x2x2", LOG_LEVEL="warning", DRAIN_SECONDS="0")
    yield cluster
    await clusters.drop(cluster)


async def _join_time(cluster: Cluster, name: str) -> float:
    """Seconds from connecting to ``user:joined``, at the gateway that stays."""
    phone = Phone(name, [cluster.gateways[1].url])
    begun = time.monotonic()
    await phone.start()
    took = time.monotonic() - begun
    await phone.stop()
    return took


async def test_a_stampede(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    urls = [gateway.url for gateway in cluster.gateways]
    phones = [Phone(f"herd{n}", urls, jitter=JITTER) for n in range(CLIENTS)]
    for first in range(0, CLIENTS, AT_ONCE):
        await asyncio.gather(*(phone.start() for phone in phones[first : first + AT_ONCE]))
    usual = [await _join_time(cluster, f"usual{n}") for n in range(40)]
    cluster.kill("gw-1")
    killed = time.monotonic()
    meanwhile: list[float] = []
    while (back := sum(phone.resumes.total() for phone in phones)) < CLIENTS:
        assert time.monotonic() < killed + LEASE + WINDOW, f"only {back} are back within their window"
        meanwhile.append(await _join_time(cluster, f"meanwhile{len(meanwhile)}"))
        await asyncio.sleep(0.1)
    took = time.monotonic() - killed
    resumed = sum(phone.resumes[True] for phone in phones)
    figures = {
        "all_back_s": round(took, 1),
        "resumed": resumed,
        "join_p50_ms": round(1000 * statistics.median(usual), 1),
        "join_p50_meanwhile_ms": round(1000 * statistics.median(meanwhile), 1),
    }
    record_property("figures", figures)
    with (cluster.folder / "stampede.json").open("w") as out:
        out.write(str(figures))
    assert resumed == CLIENTS
    assert statistics.median(meanwhile) < 5 * statistics.median(usual), figures
    for first in range(0, CLIENTS, 500):
        await asyncio.gather(*(phone.stop() for phone in phones[first : first + 500]))
