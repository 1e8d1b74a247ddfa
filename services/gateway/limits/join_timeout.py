"""Close connections that do not join in time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from shared.observability.limit_hits import LimitHits

_TICK_SECONDS = 0.5


class JoinTimeout:
    """Closes connections that have not joined in time: one task for all of them."""

    def __init__(self, seconds: float, close: Callable[[str], Awaitable[None]], hits: LimitHits) -> None:
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
