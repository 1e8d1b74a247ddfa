"""Limit how often a user joins, on all gateways and presence instances together.

Ordinary joins need no write: each instance counts them in memory. A user who joins more often than :data:`FREE` is
charged at a token bucket in the bucket ``sessions``, also for the joins that were free before. See ADR 33.
"""

import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from shared import subjects
from shared.clock import now_ms
from shared.errors import RateLimited
from shared.nats.kv import Bucket, Conflict, Entry
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import Rate, milliseconds

FREE = Rate(10, 60)
"""Joins of a user that one instance admits without a read of the store."""
USERS_MAX = 65_536
"""Users whose joins are counted in memory; the least recent are dropped first."""
TRIES = 12
"""Lost races for one key before the join counts as one too many."""
CROWDED_MS = 1000
"""Milliseconds to wait after :data:`TRIES` lost races."""
LIMIT = "joins_per_user"


class JoinLimiter:
    """Admits joins. ``rate``: ``None`` for no limit. ``sessions``: the bucket. ``clock``: seconds, monotonic.

    ``users_max``: see :data:`USERS_MAX`.
    """

    def __init__(
        self,
        sessions: Bucket,
        rate: Rate | None,
        hits: LimitHits,
        clock: Callable[[], float] = time.monotonic,
        *,
        users_max: int = USERS_MAX,
    ) -> None:
        self._users_max = users_max
        self._sessions = sessions
        self._rate = rate
        self._hits = hits
        self._clock = clock
        self._users: OrderedDict[str, _Joiner] = OrderedDict()

    def admits_at_once(self, user: str) -> bool:
        """Count a join that is free, and return True; False if it has to be charged by :meth:`charge`."""
        if self._rate is None:
            return True
        now = self._clock()
        joiner = self._users.get(user)
        if joiner is None:
            joiner = self._users[user] = _Joiner()
            if len(self._users) > self._users_max:
                self._users.popitem(last=False)
        else:
            self._users.move_to_end(user)
        if joiner.charged_until > now or joiner.allowed_at > now:
            return False
        if FREE.forgotten_at(joiner.allowed_at) <= now:
            joiner.uncharged = 0
        joiner.allowed_at = FREE.after(joiner.allowed_at, now)
        joiner.uncharged = min(joiner.uncharged + 1, FREE.events)
        return True

    async def charge(self, user: str) -> None:
        """Charge a join that is not free. Raises :class:`RateLimited`, and :class:`shared.errors.Unavailable`."""
        rate = self._rate
        assert rate is not None
        joiner = self._users.get(user) or _Joiner()
        if (wait := joiner.refused_until - self._clock()) > 0:
            self._refuse(wait)
        joins, joiner.uncharged = joiner.uncharged + 1, 0
        key = subjects.key_joins(user)
        for attempt in range(TRIES):
            # A stale entry is refused by the write; it can only be too low.
            entry = await self._sessions.get(key)
            now = now_ms() / 1000
            allowed_at = _allowed_at(entry)
            if (wait := allowed_at - now) > 0:
                joiner.refused_until = self._clock() + wait
                joiner.charged_until = self._clock() + rate.forgotten_at(allowed_at) - now
                self._refuse(wait)
            for _ in range(joins):
                allowed_at = rate.after(allowed_at, now)
            lasts = rate.forgotten_at(allowed_at) - now
            value = json.dumps({"allowedAt": round(allowed_at * 1000)}).encode()
            try:
                await self._sessions.put(key, value, entry.revision, ttl=math.ceil(lasts) + 1)
            except Conflict:
                await self._sessions.lost_race(attempt)
            else:
                joiner.charged_until = self._clock() + lasts
                return
        self._refuse(0.0)

    def _refuse(self, wait: float) -> None:
        self._hits.hit(LIMIT)
        raise RateLimited(retry_after_ms=milliseconds(wait) if wait > 0 else CROWDED_MS)


class _Joiner:
    """Joins of one user at this instance. Times are of the limiter's clock.

    ``allowed_at``: when the next free join is. ``uncharged``: recent free joins, which are not stored.
    ``charged_until``: until when no join is free. ``refused_until``: until when joins are refused without a read.
    """

    __slots__ = ("allowed_at", "charged_until", "refused_until", "uncharged")

    def __init__(self) -> None:
        self.allowed_at = -math.inf
        self.uncharged = 0
        self.charged_until = self.refused_until = -math.inf


def _allowed_at(entry: Entry) -> float:
    """Return the time of the next join that the rate allows, in seconds since the epoch."""
    return float(json.loads(entry.value)["allowedAt"]) / 1000 if entry.value else 0.0
