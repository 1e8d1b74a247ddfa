"""One system and one browser for all tests of the page."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from services.gateway.transport.demo_page import built
from tests.browser import people as cast
from tests.browser.people import People
from tests.browser.project import Project, Server
from tests.browser.system import System


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All share one loop, that of the browser; without a browser there is nothing to test."""
    here = Path(__file__).parent
    reason = (
        "chromium is not installed"
        if cast.chromium() is None
        else ""
        if built()
        else "make page has not been run"
    )
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.large)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Where pages of others come from."""
    server = Server(tmp_path_factory.mktemp("project"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[System]:
    """Two gateways that serve the page, and take pages of others."""
    system = System(tmp_path_factory.mktemp("browser") / "up.log", CLIENT_URL=server.origin)
    try:
        system.ready()
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="package")
def project(server: Server, system: System) -> Project:
    """An app that has the client installed."""
    return Project(server, system.urls[0])


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The one browser."""
    async with cast.browser() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def people(chromium: Browser, system: System, request: pytest.FixtureRequest) -> AsyncIterator[People]:
    """Everybody of this test. What is seen when it fails goes to the folder that `SCREENSHOTS` names, if it does."""
    people = People(chromium, system.urls)
    yield people
    if folder := os.environ.get("SCREENSHOTS"):
        for number, person in enumerate(people.all):
            await person.page.screenshot(path=Path(folder) / f"{request.node.name}-{number}.png")
            (Path(folder) / f"{request.node.name}-{number}.txt").write_text(
                "\n".join(reversed(await person.page.locator("#log summary").all_text_contents()))
            )
    errors = [error for person in people.all for error in person.errors]
    await people.leave()
    assert not errors
