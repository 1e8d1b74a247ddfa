"""Keep recent call events and send them again when they may have been lost.

NATS acknowledges no core message. What it had buffered when it was killed, or when a gateway lost its connection, is
lost without a trace. So a client of NATS that has reconnected reports a suspect loss. Each callcore then redelivers its
recent events with the ``seq`` they had; gateways drop those that a client has received, or that are overtaken.
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
"""Seconds that a sent event is kept. A gateway cut off for longer has lost its lease, and its sessions."""
KEEP_MAX = 16_384
"""Events kept at most; the oldest are dropped first."""
GATHER_SECONDS = 0.3
"""Seconds to wait for further reports, because several clients reconnect at once."""


class _Notification(NamedTuple):
    at: float
    gateway: str
    session: str
    event: str
    message: bytes


class RedeliveryBuffer:
    """Sends call events, keeps them, and sends them again after a suspect loss.

    ``keep_seconds``, ``keep_max``, ``gather_seconds``: see :data:`KEEP_SECONDS`, :data:`KEEP_MAX`,
    :data:`GATHER_SECONDS`.
    """

    def __init__(
        self,
        bus: Bus,
        mailbox_publisher: MailboxPublisher,
        *,
        keep_seconds: float = KEEP_SECONDS,
        keep_max: int = KEEP_MAX,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._bus = bus
        self._mailbox_publisher = mailbox_publisher
        self._keep_seconds = keep_seconds
        self._gather_seconds = gather_seconds
        self._recent: deque[_Notification] = deque(maxlen=keep_max)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe to reports of suspect losses, those of this instance included."""
        await self._bus.subscribe(subjects.DOUBT, self._on_suspect_loss)

    async def stop(self) -> None:
        """Stop a redelivery that is in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def deliver(self, gateway: str, session: str, event: str, payload: bytes) -> None:
        """Send an event and keep it. Raises :class:`shared.errors.Unavailable`."""
        message = self._mailbox_publisher.deliver(gateway, session, event, payload)
        now = time.monotonic()
        self._recent.append(_Notification(now, gateway, session, event, message))
        horizon = self._horizon(now)
        while self._recent[0].at < horizon:
            self._recent.popleft()

    def _horizon(self, now: float) -> float:
        """Return since when sent events may be lost. Time without NATS does not count: nothing was sent then."""
        bus = self._bus
        until = bus.disconnected_at if bus.connected_since > now - self._keep_seconds else now
        return until - self._keep_seconds

    async def _on_suspect_loss(self, _: Msg) -> None:
        if self._recent and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._redeliver(), name="redelivery")

    async def _redeliver(self) -> None:
        await asyncio.sleep(self._gather_seconds)
        horizon = self._horizon(time.monotonic())
        recent = [notification for notification in self._recent if notification.at > horizon]
        try:
            for notification in recent:
                self._mailbox_publisher.again(
                    notification.gateway, notification.session, notification.event, notification.message
                )
        except Unavailable:
            return  # the next client that reconnects reports it again
        log.info("redelivering recent call events", events=len(recent))
