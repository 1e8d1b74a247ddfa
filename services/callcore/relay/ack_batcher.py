"""Acknowledge passed-on relays to their gateways, in batches.

An acknowledgement leaves on the same connection after the messages it acknowledges. So one that arrives implies that
NATS has the messages, unless that connection broke in between: then this instance reports a suspect loss.
"""

from services.callcore.relay.sequence_tracker import SequenceTracker
from shared import subjects
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

BATCH_SECONDS = 0.03
"""Seconds between two batches."""


class AckBatcher:
    """Sends the acknowledgements that ``sequence_tracker`` has collected, in the name of ``instance``."""

    def __init__(self, bus: Bus, sequence_tracker: SequenceTracker, instance: str) -> None:
        self._bus = bus
        self._sequence_tracker = sequence_tracker
        self._instance = instance
        self._ticks = PeriodicTask("acknowledgements", BATCH_SECONDS, self._send)

    def start(self) -> None:
        """Begin to send."""
        self._bus.on_reconnect.append(self._report_suspect_loss)
        self._ticks.start()

    async def stop(self) -> None:
        """Send what is left, and stop."""
        await self._ticks.stop()
        self._send()

    def _send(self) -> None:
        if not self._sequence_tracker:
            return
        # Without a connection the batch is dropped: the gateways send their relays again.
        for gateway, acks in self._sequence_tracker.take_acks(self._instance):
            try:
                self._bus.publish(subjects.acks(gateway), acks.dump())
            except Unavailable:
                log.debug("acknowledgement not sent: NATS is away")

    async def _report_suspect_loss(self) -> None:
        # What was published just before the connection broke may be lost, acknowledged or not.
        try:
            self._bus.publish(subjects.DOUBT)
        except Unavailable:
            log.debug("connection lost again")
