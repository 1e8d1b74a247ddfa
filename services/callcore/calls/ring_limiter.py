"""Limit how often a user rings others, is rung, and rings a user who does not answer.

All counts are in the bucket ``calls``, so they apply to all gateways and callcore instances together. Each key has a
TTL that ends with its last effect. A refused attempt writes nothing. See ADR 13.
"""

import asyncio
import json
import math
from typing import NamedTuple

from services.callcore.state.model import NEVER_UNANSWERED, Call, State, Unanswered
from shared import subjects
from shared.clock import now_ms
from shared.concurrency import finish_all
from shared.errors import RateLimited, Unavailable
from shared.nats.kv import NOTHING, Bucket, Conflict, Entry
from shared.observability import logs
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import Rate, milliseconds

log = logs.get(__name__)

TRIES = 12
"""Lost races for one key before the attempt counts as one too many."""
CROWDED_MS = 1000
"""Milliseconds to wait after :data:`TRIES` lost races."""
UNANSWERED_FREE = 3
"""Rings without an answer after which a caller may ring the same callee again at once."""
FORGET_SECONDS = 3600
"""Seconds after the last unanswered ring, and its wait, until the count begins anew."""

NOT_ANSWERED = "Not answered: wait before ringing this user again"


class RingLimits(NamedTuple):
    """Limits of rings. A caller waits ``backoff_seconds`` after the first unanswered ring that is not free.

    The wait doubles with each further one, up to ``backoff_max_seconds``; 0: no wait.
    """

    per_caller: Rate
    per_callee: Rate
    backoff_seconds: float
    backoff_max_seconds: float

    def backoff(self, unanswered: int) -> float:
        """Return the seconds between the last of ``unanswered`` rings in a row and the next attempt."""
        past = unanswered - UNANSWERED_FREE
        if past < 0 or not self.backoff_seconds:
            return 0.0
        return float(min(self.backoff_max_seconds, self.backoff_seconds * 2 ** min(past, 32)))


class RingLimiter:
    """Admits attempts to ring. ``limits``: ``None`` for no limit."""

    def __init__(self, calls: Bucket, limits: RingLimits | None, hits: LimitHits) -> None:
        self._calls = calls
        self._limits = limits
        self._hits = hits

    async def attempt(self, caller: str, callee: str) -> Unanswered:
        """Admit a ring of ``callee`` by ``caller`` and count it. Returns the record of this pair, for the call.

        The callee's limit refuses only callers whose ring of this callee went unanswered within its window. It never
        refuses a first ring, however often others ring. Raises :class:`RateLimited`.
        """
        if (limits := self._limits) is None:
            return NEVER_UNANSWERED
        key_caller, key_callee = subjects.key_rings("caller", caller), subjects.key_rings("callee", callee)
        pair, of_caller, of_callee = await asyncio.gather(
            self._calls.get(subjects.key_pair(caller, callee), fresh=True),
            self._calls.get(key_caller),
            self._calls.get(key_callee),
        )
        unanswered, ended_at = _read_pair(pair)
        now = now_ms() / 1000
        if (wait := ended_at + limits.backoff(unanswered) - now) > 0:
            self._refuse("ring_backoff", wait, NOT_ANSWERED)
        if (wait := _allowed_at(of_caller) - now) > 0:
            self._refuse("rings_per_caller", wait)
        rang_recently = ended_at > now - limits.per_callee.seconds
        if rang_recently and (wait := _allowed_at(of_callee) - now) > 0:
            self._refuse("rings_per_callee", wait)
        await finish_all(
            self._take(key_caller, of_caller, limits.per_caller, "rings_per_caller", bound=True),
            self._take(key_callee, of_callee, limits.per_callee, "rings_per_callee", bound=rang_recently),
        )
        return Unanswered(unanswered, pair.revision)

    async def _take(self, key: str, entry: Entry, rate: Rate, limit: str, *, bound: bool) -> None:
        """Count one ring at ``key``, read as ``entry``. Unless ``bound``, a rate that is used up refuses nothing."""
        wait = 0.0
        for attempt in range(TRIES):
            # A stale entry is refused by the write; it can only be too low.
            now = now_ms() / 1000
            allowed_at = _allowed_at(entry)
            if (wait := allowed_at - now) > 0:
                break
            after = rate.after(allowed_at, now)
            value = json.dumps({"allowedAt": round(after * 1000)}).encode()
            ttl = math.ceil(rate.forgotten_at(after) - now) + 1
            try:
                await self._calls.put(key, value, entry.revision, ttl=ttl)
            except Conflict:
                await self._calls.lost_race(attempt)
                entry = await self._calls.get(key)
            else:
                return
        if bound:
            self._refuse(limit, wait)

    def _refuse(self, limit: str, wait: float, message: str | None = None) -> None:
        self._hits.hit(limit)
        raise RateLimited(message, retry_after_ms=milliseconds(wait) if wait > 0 else CROWDED_MS)

    def record_ring(self, call: Call) -> None:
        """Record how the ring of a call ended, without waiting for the write.

        An unanswered ring lengthens the next wait of this pair, an answered one resets it. A write that is lost
        to a crash or a concurrent writer makes one wait shorter.
        """
        if (limits := self._limits) is None:
            return
        key, (before, revision) = subjects.key_pair(call.caller, call.callee), call.unanswered
        try:
            if call.state is State.ENDED:
                count = before + 1
                value = json.dumps({"unanswered": count, "endedAt": call.ended_at}).encode()
                ttl = math.ceil(limits.backoff(count)) + FORGET_SECONDS
                self._calls.put(key, value, revision, ttl=ttl)
            elif before:
                self._calls.delete(key, revision)
        except Unavailable:
            log.debug("ring not counted", call=call.call)


def _allowed_at(entry: Entry) -> float:
    """Return the time of the next ring that a rate allows, in seconds since the epoch."""
    return float(json.loads(entry.value)["allowedAt"]) / 1000 if entry.value else 0.0


def _read_pair(entry: Entry) -> tuple[int, float]:
    """Return ``(unanswered rings in a row, end of the last in seconds since the epoch)``."""
    if entry is NOTHING or not entry.value:
        return 0, 0.0
    record = json.loads(entry.value)
    return record["unanswered"], record["endedAt"] / 1000
