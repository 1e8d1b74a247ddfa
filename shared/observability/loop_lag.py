"""Measure the lag of the event loop, which shows that a process is overloaded."""

import asyncio

from shared.observability.metrics import Histogram

EVERY_SECONDS = 0.1
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Sets a timer every :data:`EVERY_SECONDS`. ``late``: by how many seconds the timers fired too late."""

    def __init__(self) -> None:
        self.late = Histogram(BOUNDS)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start measuring."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + EVERY_SECONDS
        self._timer = loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.late.observe(max(0.0, asyncio.get_running_loop().time() - self._due))
        self.start()
