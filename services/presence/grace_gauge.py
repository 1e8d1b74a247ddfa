"""Count the sessions in their grace period, as a sum over all instances.

One instance may begin a grace period and another end it. Each adds one when a grace period begins there, and subtracts
one when a session is resumed or deleted there, both until that grace period expires. So the sum is right, the counts of
a dead instance are missing for one grace period at most, and nothing is read or sent.
"""

import heapq


class GraceGauge:
    """One instance's part of the sum. ``grace_ms``: length of a grace period. Times are ms since the epoch."""

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        self._notes: list[tuple[int, int]] = []
        self._sum = 0

    def begun(self, lost_at: int, now: int) -> None:
        """Count a session whose transport broke at ``lost_at``."""
        self._note(lost_at, 1, now)

    def ended(self, lost_at: int, now: int) -> None:
        """Count the end of the grace period that began at ``lost_at``, before it expired."""
        self._note(lost_at, -1, now)

    def count(self, now: int) -> int:
        """Return this instance's part of the sum; below zero if it has ended more grace periods than it has begun."""
        while self._notes and self._notes[0][0] <= now:
            self._sum -= heapq.heappop(self._notes)[1]
        return self._sum

    def _note(self, lost_at: int, more: int, now: int) -> None:
        self.count(now)
        if (until := lost_at + self._grace_ms) > now:
            heapq.heappush(self._notes, (until, more))
            self._sum += more
