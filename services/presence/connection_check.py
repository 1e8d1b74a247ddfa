"""Asks the gateway that holds a session about its connection."""

import asyncio

from shared import subjects
from shared.clock import now_ms
from shared.contracts.presence import LEASE_SECONDS, Session
from shared.errors import NotSent, Unavailable
from shared.nats.connection import Bus

UNHEARD_SECONDS = 0.5
"""How long a client may take to answer the ping behind ``user:joined`` before its next token counts as not heard."""
LIVES_SECONDS = 1.0
"""How long a connection may take to answer a ping before a plain join takes its session over."""
SLACK_SECONDS = 0.2
"""How much longer than that its gateway may take to say so."""
GONE_SECONDS = 0.3
"""How long the news may take that a socket is gone."""
_AGAIN_SECONDS = 0.1


class ConnectionCheck:
    """Asks gateways. ``most``: seconds that one question may take, so that the asker of a join still waits."""

    def __init__(self, bus: Bus, *, most: float) -> None:
        self._bus = bus
        self._lives = min(LIVES_SECONDS, most)
        self._unheard = min(UNHEARD_SECONDS, most)

    async def silent_since(self, session: Session) -> int | None:
        """Return since when a session's connection says nothing (ms), ``None`` if it answers a ping.

        A gateway that does not answer is one that may have been gone for as long as a lease.
        """
        answer = await self._ask(session, subjects.LIVES, self._lives)
        if answer == subjects.YES:
            return None
        return int(answer) if answer.isdigit() else now_ms() - int(LEASE_SECONDS * 1000)

    async def unheard(self, session: Session) -> bool:
        """Return True if a session's client has not answered the ping that followed its resume token.

        A gateway that does not answer may have died before it told the client: then it is not known to have heard.
        """
        return await self._ask(session, subjects.HEARD, self._unheard) != subjects.YES

    async def _ask(self, session: Session, what: str, seconds: float) -> bytes:
        """Return what the gateway says, empty if it says nothing in time; one that is reconnecting is asked again."""
        subject = subjects.control(session.gateway, session.session, what)
        question = f"{session.socket} {int(seconds * 1000)}".encode()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            try:
                timeout = max(0.05, until - loop.time()) + SLACK_SECONDS
                answer: bytes = (await self._bus.request(subject, question, timeout=timeout)).data
                if answer == subjects.GONE:
                    # Its gateway is saying so this moment, and whether it left or broke: that comes first.
                    await asyncio.sleep(GONE_SECONDS)
                return answer
            except NotSent:
                if loop.time() + _AGAIN_SECONDS > until:
                    return b""
                await asyncio.sleep(_AGAIN_SECONDS)
            except Unavailable:
                return b""
