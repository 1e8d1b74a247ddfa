"""How many sessions are in their grace, known by none alone: any instance may see one begin, another see it end.

Each notes one more when a grace begins here, one less when a session is continued or let go here, both until that
grace would be over. So the sum over all instances is right, one that dies takes its notes along for no longer than a
grace, and nothing is read or sent for it.
"""

import heapq


class GraceGauge:
    """``grace_ms``: how long a grace is. Times are milliseconds since the epoch."""

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        self._notes: list[tuple[int, int]] = []
        self._sum = 0

    def begun(self, lost_at: int, now: int) -> None:
        """A session has lost its transport at ``lost_at``."""
        self._note(lost_at, 1, now)

    def ended(self, lost_at: int, now: int) -> None:
        """One that lost it then is in its grace no more, before that was over."""
        self._note(lost_at, -1, now)

    def count(self, now: int) -> int:
        """This instance's part of the sum; below zero where it has seen more of them end."""
        while self._notes and self._notes[0][0] <= now:
            self._sum -= heapq.heappop(self._notes)[1]
        return self._sum

    def _note(self, lost_at: int, more: int, now: int) -> None:
        self.count(now)
        if (until := lost_at + self._grace_ms) > now:
            heapq.heappush(self._notes, (until, more))
            self._sum += more
