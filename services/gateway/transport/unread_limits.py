"""Bound what waits for clients that do not read: by its age, and by its share of the gateway's memory.

A client whose connection is aborted misses nothing: its session's grace period begins, and it resumes from the mailbox.
"""

import asyncio
from collections.abc import Callable

from services.gateway.compat.engineio_compat import Connection
from services.gateway.websocket.send_queue import UnreadTotal
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

CHECK_SECONDS = 1.0
"""Interval of the checks of ages."""
SHED_SECONDS = 0.1
"""Time for which more than the share may wait until connections are aborted, and between two tries."""
READS_SECONDS = 1.0
"""A client that has read something within this time reads well: its connection is not aborted for the share."""


class UnreadLimits:
    """Abort connections of clients that do not read.

    ``connections``: of Engine.IO, by id. ``seconds``: how long a byte may wait. ``total``: of all their queues;
    ``total.limit`` is the share. ``abort``: ends a connection at once; called with its id and the limit exceeded.
    """

    def __init__(
        self,
        connections: dict[str, Connection],
        total: UnreadTotal,
        abort: Callable[[str, str], None],
        *,
        seconds: float,
    ) -> None:
        self._connections = connections
        self._total = total
        self._abort = abort
        self._seconds = seconds
        self._ticks = PeriodicTask("unread", CHECK_SECONDS, self.check_ages)
        self._shedding: asyncio.TimerHandle | None = None
        total.on_exceeded = self._shed_soon

    def start(self) -> None:
        """Check ages from now on."""
        self._ticks.start()

    async def stop(self) -> None:
        """Check them no more."""
        self._total.on_exceeded = None
        if self._shedding is not None:
            self._shedding.cancel()
        await self._ticks.stop()

    def check_ages(self) -> None:
        """Abort each connection for which a byte has waited too long."""
        before = asyncio.get_running_loop().time() - self._seconds
        for eio_sid, connection in list(self._connections.items()):
            oldest = connection.queue.oldest_since()
            if oldest is not None and oldest < before:
                self._abort(eio_sid, "unread_seconds")

    def _shed_soon(self) -> None:
        if self._shedding is None:
            self._shedding = asyncio.get_running_loop().call_later(SHED_SECONDS, self._shed)

    def _shed(self) -> None:
        """Abort connections with the most unread bytes, of equal ones the oldest, until the rest is within the share.

        If only clients are left that read well, it is tried again, because they reduce what waits.
        """
        self._shedding = None
        total, before = self._total, asyncio.get_running_loop().time() - READS_SECONDS
        assert total.limit is not None
        if total.size <= total.limit:
            return
        stuck = [
            (-connection.queue.unread, since, eio_sid)
            for eio_sid, connection in self._connections.items()
            if (since := connection.queue.stalled_since()) is not None and since <= before
        ]
        for _, _, eio_sid in sorted(stuck):
            self._abort(eio_sid, "unread_total")
            if total.size <= total.limit:
                return
        self._shed_soon()
