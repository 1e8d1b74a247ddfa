"""Rings admitted by several instances at once in one bucket."""

import asyncio
from collections.abc import Iterator

import pytest

from services.callcore.calls.ring_limiter import UNANSWERED_FREE, RingLimiter, RingLimits
from services.callcore.state.model import NEVER_UNANSWERED, Address, Call, Reason, State, Unanswered
from shared import subjects
from shared.clock import now_ms
from shared.errors import RateLimited
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import Rate

MANY = Rate(1000, 60)
INSTANCES, ATTEMPTS = 4, 40


@pytest.fixture
def hits() -> Iterator[LimitHits]:
    counted = LimitHits()
    yield counted
    counted.stop()


@pytest.fixture
async def bucket(bus: Bus) -> Bucket:
    await Bucket.create(bus, "calls", replicas=1)
    return Bucket(bus, "calls")


def _limits(
    per_caller: Rate = MANY, per_callee: Rate = MANY, backoff: float = 0.0, longest: float = 600.0
) -> RingLimits:
    return RingLimits(per_caller, per_callee, backoff, longest)


async def _ring(limiter: RingLimiter, caller: str, callee: str, *, answered: bool = False) -> None:
    """Ring once; the ring is over, and that is stored, when this returns."""
    unanswered = await limiter.attempt(caller, callee)
    now = now_ms()
    call = Call(
        call="c",
        state=State.ACCEPTED if answered else State.ENDED,
        caller=caller,
        callee=callee,
        caller_at=Address(session="s", gateway="g"),
        call_type="audio",
        created_at=now,
        expires_at=now,
        ended_at=None if answered else now,
        reason=None if answered else Reason.CANCELLED,
        caused_by="r",
        unanswered=unanswered,
    )
    limiter.record_ring(call)
    await limiter._calls._bus.flush()
    await asyncio.sleep(0.05)


async def _refused(limiter: RingLimiter, caller: str, callee: str) -> float:
    """Seconds that the caller is told to wait."""
    with pytest.raises(RateLimited) as told:
        await limiter.attempt(caller, callee)
    assert told.value.retry_after_ms is not None and told.value.retry_after_ms > 0
    return told.value.retry_after_ms / 1000


async def test_several_instances_admit_no_more_than_one_would(bucket: Bucket, hits: LimitHits) -> None:
    instances = [RingLimiter(bucket, _limits(per_caller=Rate(5, 20)), hits) for _ in range(INSTANCES)]
    outcomes = await asyncio.gather(
        *(instances[n % INSTANCES].attempt("caller", f"callee-{n}") for n in range(ATTEMPTS)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert len(refused) == ATTEMPTS - 5 and all(o in refused or o == NEVER_UNANSWERED for o in outcomes)
    assert hits.counts == {"rings_per_caller": ATTEMPTS - 5}


async def test_a_refused_attempt_writes_nothing(bucket: Bucket, hits: LimitHits) -> None:
    limiter = RingLimiter(bucket, _limits(per_caller=Rate(2, 60)), hits)
    for callee in ("a", "b"):
        await limiter.attempt("caller", callee)
    before = await bucket.get(subjects.key_rings("caller", "caller"))
    for _ in range(3):
        assert await _refused(limiter, "caller", "c") <= 30
    assert await bucket.get(subjects.key_rings("caller", "caller")) == before
    assert (await bucket.get(subjects.key_rings("callee", "c"))).value is None


async def test_counts_expire(bucket: Bucket, hits: LimitHits) -> None:
    limiter = RingLimiter(bucket, _limits(per_caller=Rate(1, 1), per_callee=Rate(2, 1)), hits)
    await limiter.attempt("caller", "callee")
    await _refused(limiter, "caller", "callee")
    await asyncio.sleep(1.1)
    await limiter.attempt("caller", "callee")
    async with asyncio.timeout(8):
        while await bucket.keys():
            await asyncio.sleep(0.1)


async def test_a_callee_who_is_rung_too_often_can_still_be_rung_by_a_new_caller(
    bucket: Bucket, hits: LimitHits
) -> None:
    limiter = RingLimiter(bucket, _limits(per_callee=Rate(4, 60)), hits)
    for _ in range(2):
        for hostile in ("h1", "h2"):
            await _ring(limiter, hostile, "victim")
    for hostile in ("h1", "h2"):
        assert await _refused(limiter, hostile, "victim") <= 15
    assert hits.counts == {"rings_per_callee": 2}
    for honest in ("friend-1", "friend-2"):
        assert await limiter.attempt(honest, "victim") == NEVER_UNANSWERED
    await _ring(limiter, "h1", "another")


async def test_a_caller_who_is_answered_is_not_bound_by_the_callees_limit(
    bucket: Bucket, hits: LimitHits
) -> None:
    limiter = RingLimiter(bucket, _limits(per_callee=Rate(2, 60)), hits)
    for _ in range(5):
        await _ring(limiter, "friend", "callee", answered=True)
    assert not hits.counts


async def test_waits_grow_with_each_unanswered_ring_of_the_same_callee_only(
    bucket: Bucket, hits: LimitHits
) -> None:
    limiter = RingLimiter(bucket, _limits(backoff=0.4, longest=1.0), hits)
    for _ in range(UNANSWERED_FREE):
        await _ring(limiter, "ann", "bob")
    waits = []
    for _ in range(3):
        waits.append(await _refused(limiter, "ann", "bob"))
        await asyncio.sleep(waits[-1])
        await _ring(limiter, "ann", "bob")
    assert 0.2 < waits[0] <= 0.4 < waits[1] <= 0.8 < waits[2] <= 1.0, waits
    assert hits.counts == {"ring_backoff": 3}
    await _ring(limiter, "ann", "cem")
    await _ring(limiter, "cem", "bob")
    await _ring(limiter, "bob", "ann")


async def test_an_answered_call_ends_the_waits(bucket: Bucket, hits: LimitHits) -> None:
    limiter = RingLimiter(bucket, _limits(backoff=0.4), hits)
    for _ in range(UNANSWERED_FREE):
        await _ring(limiter, "ann", "bob")
    await asyncio.sleep(await _refused(limiter, "ann", "bob"))
    await _ring(limiter, "ann", "bob", answered=True)
    for _ in range(UNANSWERED_FREE):
        await _ring(limiter, "ann", "bob")


async def test_of_two_ends_of_one_ring_one_is_counted(bucket: Bucket, hits: LimitHits) -> None:
    limiter = RingLimiter(bucket, _limits(backoff=5), hits)
    await _ring(limiter, "ann", "bob")
    stale, fresh = NEVER_UNANSWERED, await limiter.attempt("ann", "bob")
    assert fresh.rings == 1 and fresh.revision > 0
    entry = await bucket.get(subjects.key_pair("ann", "bob"))
    await _ring(_Fixed(limiter, stale), "ann", "bob")  # type: ignore[arg-type]
    assert await bucket.get(subjects.key_pair("ann", "bob")) == entry


class _Fixed:
    """A limiter whose attempts return an old record: as of a callcore that comes late."""

    def __init__(self, limiter: RingLimiter, unanswered: Unanswered) -> None:
        self._calls, self.record_ring, self._unanswered = limiter._calls, limiter.record_ring, unanswered

    async def attempt(self, _caller: str, _callee: str) -> Unanswered:
        return self._unanswered


def test_one_caller_rings_for_a_small_part_of_an_hour() -> None:
    """The bound in SECURITY.md: rings of 45 s each, as soon as the defaults allow."""
    limits = _limits(backoff=5.0, longest=600.0)

    def share(begin: float, end: float) -> float:
        now, rings, rung = 0.0, 0, 0.0
        while now < end:
            rung += max(0.0, min(now + 45, end) - max(now, begin))
            rings += 1
            now += 45 + limits.backoff(rings)
        return rung / (end - begin)

    assert share(0, 3600) < 0.19
    assert share(3600, 7200) < 0.08
