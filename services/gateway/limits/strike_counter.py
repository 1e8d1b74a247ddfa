"""Count malformed or refused input per connection."""

from collections.abc import Callable

STRIKE_WINDOW_SECONDS = 60.0


class StrikeCounter:
    """Counts strikes per connection, in windows of a minute that begin with the first strike.

    ``limit``: strikes in a window after which a connection is to be closed. ``step``: seconds that each strike after
    the first ``free`` ones adds to the delay. ``longest``: the longest delay, in seconds.
    """

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float],
        *,
        step: float = 0.0,
        longest: float = 0.0,
        free: int = 0,
    ) -> None:
        self._limit = limit
        self._step = step
        self._longest = longest
        self._free = free
        self._clock = clock
        self._counts: dict[str, tuple[float, int]] = {}

    def strike(self, connection: str) -> bool:
        """Count one strike. Return True if the connection has reached the limit."""
        now = self._clock()
        since, count = self._counts.get(connection, (now, 0))
        if now - since > STRIKE_WINDOW_SECONDS:
            since, count = now, 0
        self._counts[connection] = (since, count + 1)
        return count + 1 >= self._limit

    def delay(self, connection: str) -> float:
        """Return for how many seconds the next message of the connection is delayed."""
        _, count = self._counts.get(connection, (0.0, 0))
        return min(self._longest, self._step * max(0, count - self._free))

    def forget(self, connection: str) -> None:
        """Discard the count of a connection that is closed."""
        self._counts.pop(connection, None)
