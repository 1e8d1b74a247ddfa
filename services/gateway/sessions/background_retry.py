"""Retry background requests with exponential backoff, within bounds."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import SignallingError, Unavailable
from shared.nats.backoff import Backoff
from shared.observability import logs

log = logs.get(__name__)

PENDING_MAX = 20_000
CONCURRENT_MAX = 64
"""Requests that are sent at a time, because thousands of sockets may break at once."""
GIVE_UP_SECONDS = 30.0
_BACKOFF = Backoff(first=0.1, longest=5.0)


class BackgroundRetrier:
    """Sends requests in the background for which no client waits. Past :data:`PENDING_MAX` new ones are dropped.

    ``connected``: returns True if NATS is connected. While it is not, no request is sent and none is given up.
    """

    def __init__(self, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self._free = asyncio.Semaphore(CONCURRENT_MAX)
        self._tasks: set[asyncio.Task[bool]] = set()
        self.given_up = 0
        """Requests that were dropped, or given up after :data:`GIVE_UP_SECONDS`."""

    @property
    def waiting(self) -> int:
        """Requests that have not succeeded yet."""
        return len(self._tasks)

    def run(self, name: str, request: Callable[[], Awaitable[object]]) -> asyncio.Task[bool] | None:
        """Send a request, and again while it raises :class:`Unavailable`, for :data:`GIVE_UP_SECONDS` at most.

        Time without NATS does not count. Return the task, whose result is False if the request was given up; ``None``
        if the request was dropped.
        """
        if len(self._tasks) >= PENDING_MAX:
            self.given_up += 1
            log.error("background request dropped: too many", request=name)
            return None
        task = asyncio.create_task(self._run(name, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, name: str, request: Callable[[], Awaitable[object]]) -> bool:
        loop = asyncio.get_running_loop()
        left, failures = GIVE_UP_SECONDS, 0
        while left > 0:
            begun = loop.time()
            if self._connected():
                try:
                    async with self._free:
                        begun = loop.time()
                        await request()
                    return True
                except Unavailable:
                    pass
                except SignallingError as error:
                    log.warning("background request refused", request=name, code=error.code)
                    return True
            connected = self._connected()
            await asyncio.sleep(_BACKOFF.seconds(failures))
            failures += 1
            if connected:
                left -= loop.time() - begun
        self.given_up += 1
        log.warning("background request given up", request=name)
        return False

    async def drain(self, timeout: float) -> None:
        """Wait for all requests, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
