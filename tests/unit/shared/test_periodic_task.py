"""Periodic tasks: when they run, what a failure does, and how they stop."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.typing import EventDict

from shared import periodic_task
from shared.errors import Unavailable
from shared.periodic_task import PeriodicTask
from tests.support.logged import Logged

TIMEOUT_SECONDS = 5.0


async def _until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not check():
            await asyncio.sleep(0.001)


def _lines(logged: Logged, event: str) -> list[EventDict]:
    return [line for line in logged.entries if line["event"] == event]


class Work:
    """Counts its runs, and raises ``error`` in each of them, if there is one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.runs = 0
        self.error = error

    def __call__(self) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error


async def test_work_runs_after_each_pause_and_not_before_the_first() -> None:
    work = Work()
    task = PeriodicTask("work", 0.02, work)
    task.start()
    await asyncio.sleep(0)
    assert work.runs == 0 and task.running
    await _until(lambda: work.runs >= 3)
    await task.stop()
    runs = work.runs
    await asyncio.sleep(0.05)
    assert work.runs == runs and not task.running


async def test_work_runs_at_once_if_it_is_to() -> None:
    work = Work()
    task = PeriodicTask("work", 60, work, at_once=True)
    task.start()
    await _until(lambda: work.runs == 1)
    await task.stop()


async def test_the_pause_may_change() -> None:
    work, pauses = Work(), [0.0, 0.0, 60.0]
    task = PeriodicTask("work", lambda: pauses.pop(0), work)
    task.start()
    await _until(lambda: not pauses)
    assert work.runs == 2
    await task.stop()


async def test_work_runs_again_after_a_failure_and_the_failure_is_logged_once(logged: Logged) -> None:
    work = Work(ValueError("broken"))
    task = PeriodicTask("work", 0, work)
    task.start()
    await _until(lambda: work.runs >= 50)
    await task.stop()
    (line,) = _lines(logged, "periodic task failed")
    assert line["task"] == "work" and line["failures"] == 1


async def test_a_later_line_says_how_many_failures_there_were(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic_task, "LOG_SECONDS", 0.05)
    work = Work(Unavailable("away"))
    task = PeriodicTask("work", 0.001, work)
    task.start()
    await _until(lambda: len(_lines(logged, "periodic task postponed")) >= 3)
    await task.stop()
    lines = _lines(logged, "periodic task postponed")
    assert lines[0]["failures"] == 1 and lines[0]["reason"] == "away"
    assert lines[1]["failures"] > 1


async def test_a_cancelled_request_in_the_work_does_not_end_the_task() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        request = asyncio.get_running_loop().create_future()
        request.cancel()
        await request

    task = PeriodicTask("work", 0, work)
    task.start()
    await _until(lambda: runs >= 3)
    await task.stop()


async def test_stop_cancels_the_work_that_is_under_way() -> None:
    begun, cancelled = asyncio.Event(), False

    async def work() -> None:
        nonlocal cancelled
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled = True
            raise

    task = PeriodicTask("work", 0, work)
    task.start()
    await asyncio.wait_for(begun.wait(), TIMEOUT_SECONDS)
    await task.stop()
    assert cancelled


async def test_stop_is_repeated_while_the_work_drops_the_cancellation() -> None:
    begun, dropped = asyncio.Event(), 0

    async def work() -> None:
        nonlocal dropped
        while dropped < 2:
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                dropped += 1
        await asyncio.sleep(60)

    task = PeriodicTask("work", 0, work)
    task.start()
    await asyncio.wait_for(begun.wait(), TIMEOUT_SECONDS)
    await asyncio.wait_for(task.stop(), TIMEOUT_SECONDS)
    assert dropped == 2


async def test_stop_gives_up_work_that_never_ends(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic_task, "STOP_SECONDS", 0.1)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        while not may_end.is_set():
            begun.set()
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                if may_end.is_set():
                    raise

    task = PeriodicTask("work", 0, work)
    task.start()
    await asyncio.wait_for(begun.wait(), TIMEOUT_SECONDS)
    await asyncio.wait_for(task.stop(), TIMEOUT_SECONDS)
    assert logged.count("periodic task does not stop") == 1
    running = [each for each in asyncio.all_tasks() if each.get_name() == "work"]
    may_end.set()
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_task_may_be_started_again_but_not_twice_at_once() -> None:
    work = Work()
    task = PeriodicTask("work", 0, work)
    await task.stop()
    for runs in (1, 2):
        task.start()
        with pytest.raises(RuntimeError, match="work is running"):
            task.start()
        await _until(lambda runs=runs: work.runs >= runs)
        await task.stop()
