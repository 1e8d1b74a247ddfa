"""Limits: how much garbage a client may send, and how long it may stay without joining."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

WINDOW_SECONDS = 60.0

T = TypeVar("T")


class Strikes:
    """The malformed messages of one client in the last minute."""

    __slots__ = ("_most", "_times")

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[float] = deque()

    def strike(self, now: float) -> bool:
        """Count one. ``now``: seconds on any steady clock. Whether it was one too many."""
        self._times.append(now)
        while self._times[0] <= now - WINDOW_SECONDS:
            self._times.popleft()
        if len(self._times) > self._most:
            self._times.popleft()  # whoever goes on costs no memory
            return True
        return False


class Patience(Generic[T]):
    """Calls ``lose`` for each item, ``seconds`` after it was added. One timer for all: the times are equal."""

    def __init__(self, seconds: float, lose: Callable[[T], None]) -> None:
        self._seconds = seconds
        self._lose = lose
        self._due: deque[tuple[float, T]] = deque()
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count."""
        self._task = asyncio.create_task(self._run(), name="patience")

    async def stop(self) -> None:
        """Lose nobody any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, item: T) -> None:
        """Begin to wait for ``item``. It cannot be taken out: ``lose`` decides whether it still matters."""
        self._due.append((time.monotonic() + self._seconds, item))
        self._added.set()

    async def _run(self) -> None:
        while True:
            while self._due:
                at, item = self._due[0]
                if (wait := at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                self._due.popleft()
                self._lose(item)
            self._added.clear()
            await self._added.wait()
