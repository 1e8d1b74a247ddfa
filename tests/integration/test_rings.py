"""Attempts to ring, counted by several instances at once in one bucket."""

import asyncio

import pytest

from services.callcore.rings import Rings
from shared import subjects
from shared.bus import Bus
from shared.errors import RateLimited
from shared.hits import Hits
from shared.kv import Bucket
from shared.rates import Rate

EVENTS, SECONDS = 5, 20
INSTANCES, ATTEMPTS = 4, 40


async def _bucket(bus: Bus) -> Bucket:
    await Bucket.create(bus, "calls", replicas=1)
    return Bucket(bus, "calls")


async def test_several_instances_allow_no_more_than_one_would(bus: Bus) -> None:
    bucket, hits = await _bucket(bus), Hits()
    instances = [Rings(bucket, None, Rate(EVENTS, SECONDS), hits) for _ in range(INSTANCES)]
    outcomes = await asyncio.gather(
        *(instances[n % INSTANCES].attempt(f"caller-{n}", "victim") for n in range(ATTEMPTS)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert len(refused) == ATTEMPTS - EVENTS and all(isinstance(error, RateLimited) for error in refused)
    assert hits.counts == {"rings_per_callee": ATTEMPTS - EVENTS}
    hits.stop()


async def test_a_refused_attempt_writes_nothing_and_a_caller_too_many_rings_nobody(bus: Bus) -> None:
    bucket, hits = await _bucket(bus), Hits()
    rings = Rings(bucket, Rate(2, 60), Rate(50, 60), hits)
    for callee in ("a", "b"):
        await rings.attempt("caller", callee)
    before = await bucket.get(subjects.key_rings("caller", "caller"))
    for _ in range(3):
        with pytest.raises(RateLimited) as told:
            await rings.attempt("caller", "c")
        assert 0 < (told.value.retry_after_ms or 0) <= 30_000
    assert await bucket.get(subjects.key_rings("caller", "caller")) == before
    assert (await bucket.get(subjects.key_rings("callee", "c"))).value is None
    hits.stop()


async def test_it_is_forgotten_by_itself(bus: Bus) -> None:
    bucket, hits = await _bucket(bus), Hits()
    rings = Rings(bucket, Rate(1, 1), Rate(2, 1), hits)
    await rings.attempt("caller", "callee")
    with pytest.raises(RateLimited):
        await rings.attempt("caller", "callee")
    await asyncio.sleep(1.1)
    await rings.attempt("caller", "callee")
    async with asyncio.timeout(8):
        while await bucket.keys():
            await asyncio.sleep(0.1)
    hits.stop()
