"""Saying something that may happen all the time, and be somebody's intent, without filling the log with it."""

import asyncio
from collections import Counter
from collections.abc import Callable

SECONDS = 10.0
WHATS_MAX = 32


class LogThrottle:
    """Calls ``say`` at once, and then at most every ``seconds`` with what has happened since, by kind.

    For use in an event loop. Kinds are a few fixed words; past :data:`WHATS_MAX` they count as ``other``.
    """

    def __init__(self, say: Callable[[dict[str, int]], None], *, seconds: float = SECONDS) -> None:
        self._say = say
        self._seconds = seconds
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, what: str) -> None:
        """It has happened once more."""
        known = what in self._counts or len(self._counts) < WHATS_MAX
        self._counts[what if known else "other"] += 1
        if self._timer is None:
            self._tell()

    def stop(self) -> None:
        """Say what has not been said yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counts:
            self._say(dict(self._counts))
            self._counts.clear()

    def _tell(self) -> None:
        self._timer = None
        if self._counts:
            self._say(dict(self._counts))
            self._counts.clear()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._tell)
