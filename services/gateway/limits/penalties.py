"""Delay and close connections that send malformed or refused input."""

import asyncio
from collections.abc import Callable

from services.gateway.limits.strike_counter import StrikeCounter
from shared.observability import logs
from shared.observability.limit_hits import LimitHits

log = logs.get(__name__)


class Penalties:
    """Counts malformed and refused input per connection; delays its next message, longer each time, then closes it.

    ``close``: closes a connection once its client could read why.
    """

    def __init__(
        self,
        malformed: StrikeCounter,
        refused: StrikeCounter,
        close: Callable[[str], None],
        hits: LimitHits,
    ) -> None:
        self._malformed = malformed
        self._refused = refused
        self._close = close
        self._hits = hits

    async def malformed(self, eio_sid: str) -> None:
        """Count a malformed message of a connection, and return after its delay."""
        await self._strike(eio_sid, self._malformed, "strikes")

    async def refused(self, eio_sid: str) -> None:
        """Count a refused event of a connection, and return after its delay."""
        await self._strike(eio_sid, self._refused, "refusals")

    def forget(self, eio_sid: str) -> None:
        """Discard the counts of a connection that is closed."""
        self._malformed.forget(eio_sid)
        self._refused.forget(eio_sid)

    async def _strike(self, eio_sid: str, counter: StrikeCounter, limit: str) -> None:
        if counter.strike(eio_sid):
            self._hits.hit(limit)
            log.info("closing a connection", connection=eio_sid, limit=limit)
            self._close(eio_sid)
        elif delay := counter.delay(eio_sid):
            await asyncio.sleep(delay)
