"""Deadlines on a real nats-server: stopping at any moment."""

import asyncio
import random

import pytest

from shared import subjects
from shared.messaging.timers import Timers
from shared.nats import streams
from shared.nats.connection import Bus

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


async def nothing(_id: str, _payload: bytes) -> None:
    pass


async def test_they_stop_at_any_moment_also_when_an_answer_comes_in_it(bus: Bus) -> None:
    """One in 25 never did: the answer for which nats-py waited took the cancellation's place."""
    await streams.ensure_deadlines(bus, replicas=1)
    moments = random.Random(1)
    for _ in range(300):
        deadlines = Timers(bus, subjects.GRACE, nothing)
        deadlines.start()
        await asyncio.sleep(moments.uniform(0, 0.004))
        for _ in range(moments.randrange(3)):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await deadlines.stop()
