"""Things that have to be done although nobody waits for them: told again until they are done, within bounds."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from shared import logs
from shared.errors import SignallingError, Unavailable

log = logs.get(__name__)

AT_ONCE_MAX = 20_000
GIVE_UP_SECONDS = 30.0
_FIRST_SECONDS = 0.1
_LONGEST_SECONDS = 5.0


class Errands:
    """Runs deeds in the background. Past :data:`AT_ONCE_MAX` new ones are dropped, loudly."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, name: str, deed: Callable[[], Awaitable[object]]) -> None:
        """Do it, and again while it is :class:`Unavailable`, for :data:`GIVE_UP_SECONDS` at most."""
        if len(self._tasks) >= AT_ONCE_MAX:
            log.error("errand dropped: too many", errand=name)
            return
        task = asyncio.create_task(self._until_done(name, deed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_done(self, name: str, deed: Callable[[], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        give_up, wait = loop.time() + GIVE_UP_SECONDS, _FIRST_SECONDS
        while True:
            try:
                await deed()
                return
            except Unavailable:
                if loop.time() + wait > give_up:
                    log.warning("errand given up", errand=name)
                    return
            except SignallingError as error:
                log.warning("errand refused", errand=name, code=error.code)
                return
            await asyncio.sleep(random.uniform(wait / 2, wait))
            wait = min(wait * 2, _LONGEST_SECONDS)

    async def drain(self, timeout: float) -> None:
        """Wait for what is under way, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
