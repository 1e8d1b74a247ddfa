"""Tells gateways which of their relays have been passed on.

An acknowledgement leaves on the same connection after the letters it is about, so one that arrives says that NATS has
taken them, unless that connection broke in between: then everybody is told to doubt it.
"""

import asyncio

from services.callcore.relay.sequence_tracker import SequenceTracker
from shared import subjects
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)

TELL_SECONDS = 0.03
"""How long acknowledgements are gathered."""


class AckBatcher:
    """Tells what is noted in ``sequence_tracker``. ``instance``: whose it is."""

    def __init__(self, bus: Bus, sequence_tracker: SequenceTracker, instance: str) -> None:
        self._bus = bus
        self._sequence_tracker = sequence_tracker
        self._instance = instance
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell."""
        self._bus.on_reconnect.append(self._doubt)
        self._task = asyncio.create_task(self._run(), name="acknowledgements")

    async def stop(self) -> None:
        """Tell what has not been told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._tell()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if self._sequence_tracker:
                self._tell()

    def _tell(self) -> None:
        """What cannot be told now need not be: the relays come again."""
        for gateway, acks in self._sequence_tracker.to_tell(self._instance):
            try:
                self._bus.publish(subjects.acks(gateway), acks.dump())
            except Unavailable:
                log.debug("acknowledgement not sent: NATS is away")

    async def _doubt(self) -> None:
        """What was published just before the connection broke may be lost, acknowledged or not."""
        try:
            self._bus.publish(subjects.DOUBT)
        except Unavailable:
            log.debug("connection lost again")
