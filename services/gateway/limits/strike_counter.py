"""Count malformed input per connection, and delay replies to those that send it."""

from collections.abc import Callable

STRIKE_WINDOW_SECONDS = 60.0


class StrikeCounter:
    """Counts what should not be per connection, in a minute that begins with the first.

    ``step``, ``longest``: seconds by which a client has to wait longer each time past ``free``, and at most.
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
        """One more; whether that is too many."""
        now = self._clock()
        since, count = self._counts.get(connection, (now, 0))
        if now - since > STRIKE_WINDOW_SECONDS:
            since, count = now, 0
        self._counts[connection] = (since, count + 1)
        return count + 1 >= self._limit

    def pause(self, connection: str) -> float:
        """How many seconds nothing more is heard of the connection: who does it again has to wait longer."""
        _, count = self._counts.get(connection, (0.0, 0))
        return min(self._longest, self._step * max(0, count - self._free))

    def forget(self, connection: str) -> None:
        """The connection is gone."""
        self._counts.pop(connection, None)
