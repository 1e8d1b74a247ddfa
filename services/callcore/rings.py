"""How often a user may ring others, and be rung: counted in the bucket, so for all gateways and instances together.

One key for each who rings, and one for each who is rung; its value is when the next ring is allowed, and it goes by
itself once nothing is left to be counted. A refused attempt writes nothing.
"""

import json
import math

from shared import subjects
from shared.clock import now_ms
from shared.errors import RateLimited
from shared.hits import Hits
from shared.kv import Bucket, Conflict
from shared.rates import Rate, milliseconds

TRIES = 12
"""Lost races for one key before the attempt counts as one too many."""
CROWDED_MS = 1000


class Rings:
    """Counts attempts to ring. ``per_caller``, ``per_callee``: ``None`` for no limit."""

    def __init__(self, calls: Bucket, per_caller: Rate | None, per_callee: Rate | None, hits: Hits) -> None:
        self._calls = calls
        self._per_caller = per_caller
        self._per_callee = per_callee
        self._hits = hits

    async def attempt(self, caller: str, callee: str) -> None:
        """``caller`` is about to ring ``callee``. Raises :class:`RateLimited`; one caller too many is no ring."""
        if self._per_caller is not None:
            await self._take(subjects.key_rings("caller", caller), self._per_caller, "rings_per_caller")
        if self._per_callee is not None:
            await self._take(subjects.key_rings("callee", callee), self._per_callee, "rings_per_callee")

    async def _take(self, key: str, rate: Rate, limit: str) -> None:
        wait = 0.0
        for attempt in range(TRIES):
            # A stale answer is refused by the write; it can only be too low.
            entry = await self._calls.get(key)
            now = now_ms() / 1000
            allowed_at = json.loads(entry.value)["allowedAt"] / 1000 if entry.value else 0.0
            if (wait := allowed_at - now) > 0:
                break
            after = rate.after(allowed_at, now)
            value = json.dumps({"allowedAt": round(after * 1000)}).encode()
            ttl = math.ceil(rate.forgotten_at(after) - now) + 1
            try:
                await self._calls.put(key, value, entry.revision, ttl=ttl)
            except Conflict:
                await self._calls.lost_race(attempt)
            else:
                return
        self._hits.hit(limit)
        raise RateLimited(retry_after_ms=milliseconds(wait) if wait > 0 else CROWDED_MS)
