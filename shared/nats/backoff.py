"""Waiting before a lost race is run again."""

import asyncio
import random

_FIRST_SECONDS = 0.004
_LONGEST_SECONDS = 0.1


async def back_off(attempt: int) -> None:
    """Wait a little, longer each time and never the same, so that two who raced do not race again.

    Forty attempts take about two seconds.
    """
    limit = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(attempt, 10))
    await asyncio.sleep(random.uniform(limit / 4, limit))
