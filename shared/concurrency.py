"""Run several writes at once."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def finish_all(*writes: Awaitable[Any]) -> list[Any]:
    """Wait until all of ``writes`` are done, then return their results, in order.

    Raises the first failure, in order. Unlike ``asyncio.gather`` it raises nothing while a write is under way, because
    the caller may then write to the same keys again.
    """
    results = await asyncio.gather(*writes, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
