"""Prometheus of profile metrics finds every container by Docker's DNS; whoever comes through the door finds nothing."""

import asyncio
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.stack.engine import REPOSITORY, docker
from tests.stack.images import Images
from tests.stack.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

PATIENCE_SECONDS = 90.0
OFTEN = "scrape_interval: 2s"
"""Instead of the configuration's own; how new instances are found is as there."""
INSIDE = (4222, 8222, 9464, 9090, 7777)
"""Ports of NATS, its monitor, metrics, Prometheus and the exporter."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def prometheus(stack: Stack, built: Images) -> AsyncIterator[Stack]:
    """The stack, with Prometheus besides."""
    if built.variables.get("PROMETHEUS_IMAGE") is None and built.variables.get("PYTHON_IMAGE") is not None:
        pytest.skip(
            "STACK_IMAGES=local, and prometheus is not installed (Debian: apt-get install prometheus)"
        )
    folder = shutil.copytree(REPOSITORY / "deploy/prometheus", stack.folder / "prometheus")
    config = folder / "prometheus.yml"
    faster, changed = re.subn(r"scrape_interval: \d+s", OFTEN, config.read_text())
    assert changed == 1
    config.write_text(faster)
    override = stack.folder / "prometheus.yaml"
    volumes = [f"{folder}:/etc/prometheus:ro"]
    override.write_text(json.dumps({"services": {"prometheus": {"volumes": volumes}}}))
    await stack.compose("-f", str(override), "up", "-d", "--no-build", "prometheus")
    try:
        yield stack
    finally:
        await stack.compose("rm", "-s", "-f", "-v", "prometheus")
        await stack.up(gateway=2)


def _read(stack: Stack) -> Counter[str]:
    """How many instances of each job are read."""
    url = "http://127.0.0.1:9090/api/v1/targets"
    try:
        said = docker("exec", stack.one("prometheus").id, "wget", "-qO-", url)
    except AssertionError:
        return Counter()  # about to start
    targets = json.loads(said)["data"]["activeTargets"]
    return Counter(target["labels"]["job"] for target in targets if target["health"] == "up")


async def _until_read(stack: Stack, **jobs: int) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while (read := await asyncio.to_thread(_read, stack)) != {"prometheus": 1, **jobs}:
        assert time.monotonic() < until, read
        await asyncio.sleep(1)


async def test_every_container_is_found_however_they_are_scaled(prometheus: Stack) -> None:
    await _until_read(prometheus, gateway=2, callcore=2, presence=2)
    await prometheus.up(gateway=3)
    await _until_read(prometheus, gateway=3, callcore=2, presence=2)
    await prometheus.up(gateway=1)
    await _until_read(prometheus, gateway=1, callcore=2, presence=2)
    assert prometheus.one("prometheus").healthy


async def test_none_of_it_is_published(prometheus: Stack) -> None:
    assert prometheus.get("/metrics")[0] == 404
    for container in prometheus.containers():
        ports = container.found["NetworkSettings"]["Ports"]
        published = {int(port.partition("/")[0]) for port, at in ports.items() if at}
        assert not published & set(INSIDE), container.name
        assert bool(published) is (container.service == "proxy"), container.name
