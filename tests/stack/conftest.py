"""Fixtures of the tests on Docker: the images, built once; a stack that most tests share; a stage on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.stack import engine, images
from tests.stack.images import Images
from tests.stack.stack import Stack
from tests.support import node_client
from tests.support.client import POLLING, WEBSOCKET
from tests.support.node_client import NodeDriver
from tests.support.scenario import NODE, PYTHON, Stage

WINDOW_SECONDS = 120
"""How long a user may be away: longer than a busy machine takes to stop all containers and start them anew."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """There is one engine: they do not run beside each other, but beside others (tests/support/worker_groups.py)."""
    for item in items:
        if Path(__file__).parent == item.path.parent and item.path.stem != "test_files":
            item.add_marker(pytest.mark.large)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """All images; skips the test where there is no Docker."""
    if (reason := engine.missing()) is not None:
        pytest.skip(reason)
    return images.build(tmp_path_factory.mktemp("images"))


@pytest.fixture(params=(WEBSOCKET, POLLING))
def kind(request: pytest.FixtureRequest) -> str:
    """The transport is what makes a difference to a proxy: one library will do, that of browsers if it can be had."""
    return f"{PYTHON if node_client.missing() else NODE}-{request.param}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(built: Images, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two of each service behind the proxy."""
    stack = Stack(
        tmp_path_factory.mktemp("stack"), built, RESUME_WINDOW_SECONDS=str(WINDOW_SECONDS), SWEEP_SECONDS="3"
    )
    try:
        await stack.up(gateway=2, callcore=2, presence=2)
        yield stack
    finally:
        await stack.down()


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stack: Stack, kind: str, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Clients of ``kind`` that all come through the proxy."""
    async for stage in Stage.on(stack, kind, driver):  # type: ignore[arg-type]  # what a stage needs of a cluster
        yield stage
