"""Joins of one user, counted by several instances of presence together."""

import asyncio
from collections.abc import Iterator

import pytest

from services.presence.join_limiter import FREE, JoinLimiter
from shared import subjects
from shared.errors import RateLimited
from shared.nats.connection import Bus
from shared.nats.kv import NOTHING, Bucket
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import Rate
from tests.integration.presence.conftest import Gateway, Start

RATE = Rate(20, 600)


@pytest.fixture
def hits() -> Iterator[LimitHits]:
    counted = LimitHits()
    yield counted
    counted.stop()


@pytest.fixture
async def bucket(bus: Bus) -> Bucket:
    await Bucket.create(bus, subjects.BUCKET_SESSIONS, replicas=1)
    return Bucket(bus, subjects.BUCKET_SESSIONS)


async def _join(limiter: JoinLimiter, user: str) -> None:
    if not limiter.admits_at_once(user):
        await limiter.charge(user)


async def test_ordinary_joins_ask_nothing(bucket: Bucket, hits: LimitHits) -> None:
    limiter = JoinLimiter(bucket, RATE, hits)
    for _ in range(FREE.events):
        assert limiter.admits_at_once("u")
    assert await bucket.get(subjects.key_joins("u"), fresh=True) == NOTHING
    assert not limiter.admits_at_once("u")
    assert limiter.admits_at_once("somebody else")


async def test_several_instances_allow_no_more_than_one(bucket: Bucket, hits: LimitHits) -> None:
    limiters = [JoinLimiter(bucket, RATE, hits) for _ in range(3)]
    admitted, waits = 0, []
    for n in range(120):
        try:
            await _join(limiters[n % 3], "u")
            admitted += 1
        except RateLimited as error:
            waits.append(error.retry_after_ms or 0)
    assert all(0 < wait <= RATE.interval * 1000 * FREE.events for wait in waits)
    # What was free at an instance is charged as soon as it is too much there.
    assert RATE.events <= admitted <= RATE.events + 3 * FREE.events
    assert hits.counts["joins_per_user"] == 120 - admitted
    await _join(limiters[0], "honest")


async def test_joins_at_once_count_too(bucket: Bucket, hits: LimitHits) -> None:
    limiters = [JoinLimiter(bucket, RATE, hits) for _ in range(2)]
    done = await asyncio.gather(*(_join(limiters[n % 2], "u") for n in range(80)), return_exceptions=True)
    assert sum(each is None for each in done) <= RATE.events + 2 * FREE.events
    assert all(each is None or isinstance(each, RateLimited) for each in done)


async def test_the_free_ones_come_back(bucket: Bucket, hits: LimitHits) -> None:
    now = 1000.0
    limiter = JoinLimiter(bucket, RATE, hits, clock=lambda: now)
    for _ in range(50):
        for _ in range(FREE.events):
            assert limiter.admits_at_once("u")
        now += FREE.seconds


async def test_memory_is_bounded(bucket: Bucket, hits: LimitHits) -> None:
    limiter = JoinLimiter(bucket, RATE, hits, users_max=100)
    for n in range(1000):
        assert limiter.admits_at_once(f"u-{n}")
    assert len(limiter._users) == 100


async def test_off(bucket: Bucket, hits: LimitHits) -> None:
    limiter = JoinLimiter(bucket, None, hits)
    assert all(limiter.admits_at_once("u") for _ in range(1000))


async def test_a_refused_resume_loses_nothing(presence: Start, bus: Bus) -> None:
    await presence(joins_per_user=Rate(12, 12))
    gateway = Gateway(bus, "gw-1")
    first = await gateway.join("u", "s-0")
    for n in range(1, 12):
        first = await gateway.join("u", f"s-{n}", resume=first)
    await gateway.lose("u", first.session, "s-11")
    with pytest.raises(RateLimited) as refused:
        await gateway.join("u", "s-12", resume=first)
    assert refused.value.retry_after_ms is not None
    await gateway.join("honest", "s-13")
    await asyncio.sleep(refused.value.retry_after_ms / 1000)
    again = await gateway.join("u", "s-14", resume=first)
    assert again.resumed and again.session == first.session
