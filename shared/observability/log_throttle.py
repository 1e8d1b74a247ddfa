"""Limit how often a repeated event is logged, because a client may cause it as often as it likes."""

import asyncio
from collections import Counter
from collections.abc import Callable

SECONDS = 10.0
WHATS_MAX = 32
"""Kinds that are counted apart."""


class LogThrottle:
    """Calls ``say`` with the counts of events by kind: at once, and then at most every ``seconds`` seconds.

    Needs a running event loop. Kinds are a few fixed words; past :data:`WHATS_MAX` they count as ``other``.
    """

    def __init__(self, say: Callable[[dict[str, int]], None], *, seconds: float = SECONDS) -> None:
        self._say = say
        self._seconds = seconds
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, what: str) -> None:
        """Count one event of this kind."""
        known = what in self._counts or len(self._counts) < WHATS_MAX
        self._counts[what if known else "other"] += 1
        if self._timer is None:
            self._log()

    def stop(self) -> None:
        """Log the counts that are not logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counts:
            self._say(dict(self._counts))
            self._counts.clear()

    def _log(self) -> None:
        self._timer = None
        if self._counts:
            self._say(dict(self._counts))
            self._counts.clear()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._log)
