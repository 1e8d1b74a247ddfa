"""Close connections that do not join in time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from shared.observability.limit_hits import LimitHits
from shared.periodic_task import PeriodicTask

_TICK_SECONDS = 0.5


class JoinTimeout:
    """Closes connections that have not joined within ``seconds``, by one task for all of them."""

    def __init__(self, seconds: float, close: Callable[[str], Awaitable[None]], hits: LimitHits) -> None:
        self._seconds = seconds
        self._hits = hits
        self._close = close
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._ticks = PeriodicTask("join timeout", _TICK_SECONDS, self._close_late)

    def start(self) -> None:
        """Begin to close connections."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop."""
        await self._ticks.stop()

    def connected(self, connection: str) -> None:
        """Start the timeout of a connection."""
        self._waiting[connection] = asyncio.get_running_loop().time() + self._seconds

    def disarm(self, connection: str) -> None:
        """Stop the timeout of a connection that has joined or is closed."""
        self._waiting.pop(connection, None)

    def __len__(self) -> int:
        """Return the number of connections that have not joined."""
        return len(self._waiting)

    async def _close_late(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._waiting:
            connection, deadline = next(iter(self._waiting.items()))
            if deadline > now:
                break
            del self._waiting[connection]
            self._hits.hit("join_timeout")
            await self._close(connection)
