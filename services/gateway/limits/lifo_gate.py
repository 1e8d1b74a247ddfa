"""LIFO admission under overload.

When a gateway dies, thousands of its clients connect elsewhere within seconds, faster than they can be admitted. In
FIFO order each would wait for all before it, and so would any other client that joins meanwhile. In LIFO order most
are admitted at once; the few that wait are admitted when fewer come.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class TickGate:
    """Admits one waiter per event-loop tick, so that no tick takes much longer than one admission.

    ``most``: the number of waiters above which the oldest is refused.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[asyncio.Future[bool], Callable[[], bool]]] = deque()
        self._taken = False

    async def through(self, there: Callable[[], bool]) -> bool:
        """Wait for admission. Return False if the waiter is refused.

        ``there``: returns False if the waiter's client is gone; such a waiter is refused.
        """
        if not self._taken:
            self._taken = True
            asyncio.get_running_loop().call_soon(self._next)
            return True
        if len(self._waiting) >= self._most:
            self._admit(self._waiting.popleft()[0], False)
        admitted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((admitted, there))
        return await admitted

    def _next(self) -> None:
        while self._waiting:
            admitted, there = self._waiting.pop()
            if admitted.done():
                continue
            self._admit(admitted, there())
            if admitted.result():
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False

    @staticmethod
    def _admit(admitted: "asyncio.Future[bool]", admit: bool) -> None:
        if not admitted.done():
            admitted.set_result(admit)


class LifoGate:
    """Semaphore of ``slots`` that wakes its newest waiter first."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and occupy it until the context ends."""
        if self._free:
            self._free -= 1
        else:
            granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(granted)
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            granted = self._waiting.pop()
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1
