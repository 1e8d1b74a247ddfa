"""How often a client may do what it should not, and how long it may stay without joining."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from shared.observability.limit_hits import Hits

STRIKE_WINDOW_SECONDS = 60.0
_TICK_SECONDS = 0.5


class Strikes:
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


class JoinTimeout:
    """Closes connections that have not joined in time: one task for all of them."""

    def __init__(self, seconds: float, close: Callable[[str], Awaitable[None]], hits: Hits) -> None:
        self._seconds = seconds
        self._hits = hits
        self._close = close
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="join timeout")

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def connected(self, connection: str) -> None:
        """A connection begins, and its time with it."""
        self._waiting[connection] = asyncio.get_running_loop().time() + self._seconds

    def joined_or_gone(self, connection: str) -> None:
        """It need not be watched any more."""
        self._waiting.pop(connection, None)

    def __len__(self) -> int:
        """How many have not joined yet."""
        return len(self._waiting)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            while self._waiting:
                connection, deadline = next(iter(self._waiting.items()))
                if deadline > loop.time():
                    break
                del self._waiting[connection]
                self._hits.hit("join_timeout")
                await self._close(connection)
