"""Things that have to be done although nobody waits for them: told again until they are done, within bounds."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import SignallingError, Unavailable
from shared.nats.backoff import Backoff
from shared.observability import logs

log = logs.get(__name__)

AT_ONCE_MAX = 20_000
UNDER_WAY_MAX = 64
"""Deeds that are being done at a time; thousands of sockets may break in one moment."""
GIVE_UP_SECONDS = 30.0
_BACKOFF = Backoff(first=0.1, longest=5.0)


class BackgroundRetrier:
    """Runs deeds in the background. Past :data:`AT_ONCE_MAX` new ones are dropped, loudly.

    ``connected``: whether NATS is there; while it is not, no deed is begun and none is given up.
    """

    def __init__(self, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self._free = asyncio.Semaphore(UNDER_WAY_MAX)
        self._tasks: set[asyncio.Task[bool]] = set()
        self.given_up = 0
        """Deeds that were not done: dropped, or tried for too long."""

    @property
    def waiting(self) -> int:
        """Deeds that are not done yet."""
        return len(self._tasks)

    def run(self, name: str, deed: Callable[[], Awaitable[object]]) -> asyncio.Task[bool] | None:
        """Do it, and again while it is :class:`Unavailable`, for :data:`GIVE_UP_SECONDS` with NATS there at most.

        Return the task, which returns False if it was given up; ``None`` if it was dropped.
        """
        if len(self._tasks) >= AT_ONCE_MAX:
            self.given_up += 1
            log.error("errand dropped: too many", errand=name)
            return None
        task = asyncio.create_task(self._until_done(name, deed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _until_done(self, name: str, deed: Callable[[], Awaitable[object]]) -> bool:
        loop = asyncio.get_running_loop()
        left, failures = GIVE_UP_SECONDS, 0
        while left > 0:
            begun = loop.time()
            if self._connected():
                try:
                    async with self._free:
                        begun = loop.time()
                        await deed()
                    return True
                except Unavailable:
                    pass
                except SignallingError as error:
                    log.warning("errand refused", errand=name, code=error.code)
                    return True
            there = self._connected()
            await asyncio.sleep(_BACKOFF.seconds(failures))
            failures += 1
            if there:
                left -= loop.time() - begun
        self.given_up += 1
        log.warning("errand given up", errand=name)
        return False

    async def drain(self, timeout: float) -> None:
        """Wait for what is under way, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
