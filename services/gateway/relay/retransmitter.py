"""Retransmit relays that are not acknowledged in time, and give them up when they are too old."""

import time

from services.gateway.relay.ack_tracker import AckTracker
from services.gateway.relay.loss_detector import LossDetector
from services.gateway.relay.publisher import Publisher
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import SendWindow
from shared import subjects
from shared.contracts.relays import Acks
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

_TICK_SECONDS = 0.25


class Retransmitter:
    """Fires the timers of all windows with outstanding relays, four times a second: one task."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        send_buffer: SendBuffer,
        publisher: Publisher,
        acks: AckTracker,
        losses: LossDetector,
        receive_order: ReceiveOrder,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._send_buffer = send_buffer
        self._publisher = publisher
        self._acks = acks
        self._losses = losses
        self._receive_order = receive_order
        self._ticks = PeriodicTask("relays", _TICK_SECONDS, self._tick)
        self.given_up = 0
        """Relays that were given up, and whose clients got an error for them."""

    def start(self) -> None:
        """Start the task."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop the task."""
        await self._ticks.stop()

    def _tick(self) -> None:
        try:
            now = time.monotonic()
            self._acks.expire(now)
            if self._bus.connected:
                self._suspect_losses(now)
                self._report_missed()
            for window in self._send_buffer.active(now):
                self._fire_timers(window, now)
            if self._bus.connected:
                self._send_buffer.tidy(now)
        except Unavailable:
            log.debug("NATS is away")

    def _suspect_losses(self, now: float) -> None:
        windows = self._losses.windows_due(now)
        for window in windows:
            self._send_buffer.suspect_loss(window)
        if windows:
            log.info("retransmitting relays that may be lost", windows=len(windows))

    def _report_missed(self) -> None:
        """Ask other gateways to retransmit relays that clients of this gateway miss."""
        for gateway, sessions in self._receive_order.take_missed().items():
            acks = Acks(by=self._instance, lost=tuple(sessions))
            self._bus.publish(subjects.acks(gateway), acks.dump())

    def _fire_timers(self, window: SendWindow, now: float) -> None:
        """Give up the relays of a window that are too old, and retransmit the others if that is due."""
        for relay in self._send_buffer.expire(window, now):
            self.given_up += 1
            log.warning("relay given up", session=window.session, call=window.call, relayed=relay.event)
            self._acks.refused(window.session, relay.number, Unavailable(), relay.event, notify=True)
        if not self._bus.connected:
            return
        self._publisher.update_owner(window)
        probed_at, owner = window.timer_fired(now), window.owner
        if (
            probed_at is not None
            and owner is not None
            and not self._losses.acknowledged_since(owner, probed_at)
        ):
            log.warning("callcore does not acknowledge", callcore=owner)
            self._publisher.drop_owner(owner)
            self._publisher.update_owner(window)
        if window.needs_retransmission:
            self._publisher.retransmit(window)
        self._send_buffer.trim(window, now)
