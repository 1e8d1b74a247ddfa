"""Several writes at once: the results, and when a failure is raised."""

import asyncio

import pytest

from shared.concurrency import finish_all


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_results_come_in_the_order_of_the_writes() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    task = asyncio.create_task(finish_all(first, second))
    await _settle()
    second.set_result("b")
    await _settle()
    assert not task.done()
    first.set_result("a")
    assert await task == ["a", "b"]


async def test_the_first_failure_in_order_is_raised_when_all_writes_are_done() -> None:
    loop = asyncio.get_running_loop()
    first, second, third = loop.create_future(), loop.create_future(), loop.create_future()
    task = asyncio.create_task(finish_all(first, second, third))
    await _settle()
    third.set_exception(ValueError("third"))
    second.set_exception(ValueError("second"))
    await _settle()
    assert not task.done()  # asyncio.gather raises here, while the first write is under way
    first.set_result(None)
    with pytest.raises(ValueError, match="second"):
        await task


async def test_a_cancelled_caller_cancels_the_writes() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    task = asyncio.create_task(finish_all(first, second))
    await _settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.cancelled() and second.cancelled()
