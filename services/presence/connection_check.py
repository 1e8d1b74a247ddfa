"""Request from the gateway of a session whether its connection answers."""

import asyncio

from shared import subjects
from shared.clock import now_ms
from shared.contracts.presence import LEASE_SECONDS, Session
from shared.errors import NotSent, Unavailable
from shared.nats.connection import Bus

UNHEARD_SECONDS = 0.5
"""Seconds for a client to answer the ping after ``user:joined``; else its new token counts as not received."""
LIVES_SECONDS = 1.0
"""Seconds for a connection to answer a ping before a plain join takes its session over."""
SLACK_SECONDS = 0.2
"""Seconds that the reply of the gateway may take beyond that."""
GONE_SECONDS = 0.3
"""Seconds until presence has received that a socket is gone."""
_AGAIN_SECONDS = 0.1


class ConnectionCheck:
    """Sends checks to gateways. ``most``: seconds of one check, so that the requester of a join still waits."""

    def __init__(self, bus: Bus, *, most: float) -> None:
        self._bus = bus
        self._lives = min(LIVES_SECONDS, most)
        self._unheard = min(UNHEARD_SECONDS, most)

    async def silent_since(self, session: Session) -> int | None:
        """Return since when a session's connection is silent (ms), ``None`` if it answers a ping.

        A gateway that does not reply may have been gone for as long as a lease.
        """
        answer = await self._check(session, subjects.LIVES, self._lives)
        if answer == subjects.YES:
            return None
        return int(answer) if answer.isdigit() else now_ms() - int(LEASE_SECONDS * 1000)

    async def unheard(self, session: Session) -> bool:
        """Return True if a session's client has not answered the ping that followed its resume token.

        A gateway that does not reply may have died before it sent the token: then True is returned too.
        """
        return await self._check(session, subjects.HEARD, self._unheard) != subjects.YES

    async def _check(self, session: Session, what: str, seconds: float) -> bytes:
        """Return the reply of the gateway, empty if none came in time. Retries while the gateway reconnects."""
        subject = subjects.control(session.gateway, session.session, what)
        request = f"{session.socket} {int(seconds * 1000)}".encode()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            try:
                timeout = max(0.05, until - loop.time()) + SLACK_SECONDS
                reply: bytes = (await self._bus.request(subject, request, timeout=timeout)).data
                if reply == subjects.GONE:
                    # Its gateway is about to notify presence whether it left or broke: let that come first.
                    await asyncio.sleep(GONE_SECONDS)
                return reply
            except NotSent:
                if loop.time() + _AGAIN_SECONDS > until:
                    return b""
                await asyncio.sleep(_AGAIN_SECONDS)
            except Unavailable:
                return b""
