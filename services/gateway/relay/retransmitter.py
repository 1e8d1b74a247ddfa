"""Relays of which nothing comes back: sent again, and given up in the end."""

import asyncio
import time

from services.gateway.relay.ack_tracker import AckTracker
from services.gateway.relay.feedback import Feedback
from services.gateway.relay.publisher import Publisher
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import AGAIN_SECONDS, SendWindow
from shared import subjects
from shared.contracts.relays import Acks
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)

_TICK_SECONDS = 0.25


class Retransmitter:
    """Looks after all flows of which something waits, a few times a second: one task."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        send_buffer: SendBuffer,
        pump: Publisher,
        receipts: Feedback,
        answers: AckTracker,
        heard: ReceiveOrder,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._send_buffer = send_buffer
        self._pump = pump
        self._receipts = receipts
        self._answers = answers
        self._heard = heard
        self._doubted_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.given_up = 0
        """Relays that were given up."""

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="relays")

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                now = time.monotonic()
                self._answers.expire(now)
                if self._bus.connected:
                    self._raise_doubts(now)
                    self._tell_missed()
                for flow in self._send_buffer.waiting(now):
                    self._tend(flow, now)
                if self._bus.connected:
                    self._send_buffer.tidy(now)
            except Unavailable:
                log.debug("NATS went away")
            except Exception:
                log.exception("relays not tended")

    def _raise_doubts(self, now: float) -> None:
        receipts = self._receipts
        if receipts.cut_off:
            receipts.cut_off, self._doubted_at = False, 0.0
        if not (receipts.doubt or receipts.lost) or now < self._doubted_at + AGAIN_SECONDS:
            return
        lost = [flow for session in receipts.lost for flow in self._send_buffer.of(session)]
        flows = list(self._send_buffer) if receipts.doubt else lost
        receipts.doubt, self._doubted_at = False, now
        receipts.lost.clear()
        for flow in flows:
            self._send_buffer.doubt(flow)
        if flows:
            log.info("relays of late are sent again", flows=len(flows))

    def _tell_missed(self) -> None:
        """Have others send again what clients of this gateway miss."""
        for gateway, sessions in self._heard.take_missed().items():
            told = Acks(by=self._instance, lost=tuple(sessions))
            self._bus.publish(subjects.acks(gateway), told.dump())

    def _tend(self, flow: SendWindow, now: float) -> None:
        """Give up what is too old of a flow that waits, and send the rest again if it is time."""
        for sent in self._send_buffer.give_up(flow, now):
            self.given_up += 1
            log.warning("relay given up", session=flow.session, call=flow.call, relayed=sent.event)
            self._answers.refused(flow.session, sent.number, Unavailable(), sent.event, known=False)
        if not self._bus.connected:
            return
        self._pump.look(flow)
        if flow.stalled(now):
            flow.probing = not flow.missed
            flow.behind = True
        elif flow.probing and now > flow.pumped_at + AGAIN_SECONDS:
            flow.probing = False
            if flow.owner is not None and self._receipts.acknowledged_by(flow.owner) < flow.pumped_at:
                log.warning("callcore does not acknowledge", callcore=flow.owner)
                self._pump.gone(flow.owner)
                self._pump.look(flow)
        if flow.behind:
            self._pump.again(flow)
        self._send_buffer.trim(flow, now)
