"""Detect within a second that NATS hangs: such a server keeps its connections and accepts bytes."""

import asyncio

from shared.nats.connection import Bus
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

EVERY_SECONDS = 0.25
LATE_SECONDS = 0.6
"""Seconds within which a pong has to come. With the time between two pings it is less than a second."""


class HangDetector:
    """Pings NATS over the connection of ``bus``, and marks the bus as disconnected while no pong comes.

    Requests under way, and requests made meanwhile, fail at once. A false alarm costs no more than that: clients get
    a retryable error, and relays wait.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ticks = PeriodicTask("nats hang detector", EVERY_SECONDS, self._check)

    def start(self) -> None:
        """Start pinging."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop pinging."""
        await self._ticks.stop()
        self._bus.hangs(False)

    async def _check(self) -> None:
        since = self._bus.connected_since
        pong = await self._bus.ping()
        if pong is None or await self._comes(pong):
            return
        log.warning("nats does not answer")
        self._bus.hangs(True)
        while not pong.done() and self._bus.connected_since == since:
            await asyncio.sleep(EVERY_SECONDS)
        self._bus.hangs(False)
        log.info("nats answers")

    @staticmethod
    async def _comes(pong: asyncio.Future[bool]) -> bool:
        await asyncio.wait({pong}, timeout=LATE_SECONDS)
        # If it was this process that hung, the answer is there and only has to be read.
        for _ in range(3):
            if pong.done():
                return True
            await asyncio.sleep(0)
        return pong.done()
