"""What holds for every test."""

import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support import node_client
from tests.support.logged import Logged, modules
from tests.support.node_client import NodeDriver
from tests.support.scenario import KINDS, usable
from tests.support.worker_groups import SideBySide

settings.register_profile(
    "busy", deadline=None
)  # another process may have the processor for longer than any deadline
settings.load_profile("busy")

_skipped: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle the tests if ``SHUFFLE`` is set: the same order for the same value, on each worker."""
    if seed := os.environ.get("SHUFFLE"):
        random.Random(seed).shuffle(items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what is skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note modules that are skipped as a whole."""
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """Who works at what, where there are several workers."""
    return SideBySide(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing is skipped: whatever a test needs is installed there, or CI proves nothing."""
    if os.environ.get("CI") and _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why it failed."""
    if os.environ.get("CI") and _skipped:
        terminalreporter.write_line(f"CI: {len(_skipped)} skipped, none may be: {_skipped[:5]}", red=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def driver() -> AsyncIterator[NodeDriver | None]:
    """The Node process, where there can be one."""
    if node_client.missing() is not None:
        yield None
        return
    driver = NodeDriver()
    await driver.start()
    yield driver
    await driver.stop()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Library and transport of the clients."""
    return usable(str(request.param))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Logged:
    """Record what is logged in this process, however the tests before this one have configured logging."""
    logged = Logged(caplog)
    for module in modules():
        logged.replace(monkeypatch, module)
    return logged
