"""Thousands of clients lose their gateway at once and come back to the other; who joins meanwhile hardly notices."""

import asyncio
import json
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.mass_join import HerdProcess
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300), pytest.mark.alone]

CLIENTS = 5_000
HASTY = 1_000
"""That many come back all at once, as most libraries have it."""
WINDOW, LEASE = 30, 6
JITTER = 15.0
"""Over how many seconds the clients come back, which a good one leaves to chance: half of their window."""
TIMES, FLOOR_MS = 5, 50
"""How much longer a join may take meanwhile; less than the floor is not told from what a busy machine does."""
QUIET_SECONDS = 8


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> AsyncIterator[Cluster]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CLIENTS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} files may be open, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    cluster = await clusters.get("2x2x2", LOG_LEVEL="warning", DRAIN_SECONDS="0")
    yield cluster
    await clusters.drop(cluster)


async def test_a_stampede(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    urls = [gateway.url for gateway in cluster.gateways]
    # Phones do not run on the servers' CPUs: theirs get what is left of these.
    async with HerdProcess(nice=10) as herd, HerdProcess() as others:
        await herd.do("crowd", 120, name="herd", count=CLIENTS, urls=urls, jitter=JITTER)
        quiet = await others.do("joins", 60, name="usual", url=urls[1], seconds=QUIET_SECONDS)
        cluster.kill("gw-1")
        killed = time.monotonic()
        meanwhile: dict[str, list[float]] = {"fresh": [], "there": []}
        while (state := await herd.do("back", 30))["back"] < CLIENTS:
            assert time.monotonic() < killed + WINDOW, f"only {state} are back within their window"
            some = await others.do(
                "joins", 60, name=f"meanwhile{len(meanwhile['fresh'])}", url=urls[1], seconds=1
            )
            for kind, times in some.items():
                meanwhile[kind] += times
        took = time.monotonic() - killed
        figures = {"all_back_s": round(took, 1), "resumed": state["resumed"]}
        for name, times in (("usual", quiet), ("meanwhile", meanwhile)):
            for kind in ("fresh", "there"):
                figures[f"{name}_{kind}_p50_ms"] = round(1000 * statistics.median(times[kind]), 1)
                figures[f"{name}_{kind}_p90_ms"] = round(
                    1000 * statistics.quantiles(times[kind], n=10)[-1], 1
                )
                figures[f"{name}_{kind}_count"] = len(times[kind])
        record_property("figures", figures)
        (cluster.folder / "stampede.json").write_text(json.dumps(figures))
        await herd.do("leave", 60)
    assert state["resumed"] == CLIENTS
    for kind in ("fresh", "there"):
        usual, now = figures[f"usual_{kind}_p50_ms"], figures[f"meanwhile_{kind}_p50_ms"]
        assert now <= max(TIMES * usual, FLOOR_MS), figures


async def test_who_comes_back_at_once_is_resumed_too(cluster: Cluster) -> None:
    urls = [gateway.url for gateway in cluster.gateways]
    async with HerdProcess(nice=10) as herd:
        await herd.do("crowd", 120, name="hasty", count=HASTY, urls=urls, jitter=0.3)
        cluster.kill("gw-1")
        killed = time.monotonic()
        while (state := await herd.do("back", 30))["back"] < HASTY:
            assert time.monotonic() < killed + WINDOW, f"only {state} are back within their window"
            await asyncio.sleep(0.2)
        assert state["resumed"] == HASTY
        await herd.do("leave", 60)
