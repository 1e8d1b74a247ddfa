"""The turns of calls that were told of late: told again when they may have got lost on the way.

What NATS had in its hands when it was killed, or when a gateway lost its connection, reached nobody, and there is no
acknowledgement that would be missing. So whoever is connected again says so, and everybody tells once more what he told
of late, with the ``seq`` that it had; gateways write to no client what it has heard, or what is overtaken.
"""

import asyncio
import time
from collections import deque
from typing import NamedTuple

from nats.aio.msg import Msg

from shared import subjects
from shared.errors import Unavailable
from shared.messaging.mailbox import MailboxPublisher
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)

KEEP_SECONDS = 30.0
"""How long what was told is remembered. A gateway that is cut off for longer has lost its lease, and its sessions."""
KEEP_MAX = 16_384
GATHER_SECONDS = 0.3
"""How long it is waited for others who are back, too."""


class _Notification(NamedTuple):
    at: float
    gateway: str
    session: str
    event: str
    letter: bytes


class RedeliveryBuffer:
    """A postman that remembers."""

    def __init__(self, bus: Bus, mailbox_publisher: MailboxPublisher) -> None:
        self._bus = bus
        self._mailbox_publisher = mailbox_publisher
        self._turns: deque[_Notification] = deque(maxlen=KEEP_MAX)
        self._again: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for who has lost its connection, this instance included."""
        await self._bus.subscribe(subjects.DOUBT, self._on_doubt)

    async def stop(self) -> None:
        """Tell nothing again any more."""
        if self._again is not None:
            self._again.cancel()
            await asyncio.gather(self._again, return_exceptions=True)

    def deliver(self, gateway: str, session: str, event: str, payload: bytes) -> None:
        """Send an event. Raises :class:`shared.errors.Unavailable`."""
        letter = self._mailbox_publisher.deliver(gateway, session, event, payload)
        now = time.monotonic()
        self._turns.append(_Notification(now, gateway, session, event, letter))
        horizon = self._horizon(now)
        while self._turns[0].at < horizon:
            self._turns.popleft()

    def _horizon(self, now: float) -> float:
        """Since when what was told may be lost. While NATS was away nobody was told anything: that does not count."""
        bus = self._bus
        until = bus.disconnected_at if bus.connected_since > now - KEEP_SECONDS else now
        return until - KEEP_SECONDS

    async def _on_doubt(self, _: Msg) -> None:
        if self._turns and (self._again is None or self._again.done()):
            self._again = asyncio.create_task(self._tell_again(), name="told again")

    async def _tell_again(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        horizon = self._horizon(time.monotonic())
        turns = [turn for turn in self._turns if turn.at > horizon]
        try:
            for turn in turns:
                self._mailbox_publisher.again(turn.gateway, turn.session, turn.event, turn.letter)
        except Unavailable:
            return  # whoever is connected first says so again
        log.info("turns of late are told again", turns=len(turns))
