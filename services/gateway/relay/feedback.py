"""Receive acknowledgements, refusals and receipts of relays, and NATS's reports that a receiver is not there."""

import json
import time

from nats.aio.msg import Msg

from services.gateway.relay.ack_tracker import AckTracker
from services.gateway.relay.loss_detector import LossDetector
from services.gateway.relay.publisher import Publisher
from services.gateway.relay.send_buffer import SendBuffer
from shared import subjects
from shared.contracts.relays import Acks
from shared.errors import ReceiverNotFound, SignallingError
from shared.nats.connection import Bus
from shared.observability import logs
from shared.subjects import DELIVERY, ReceiptSubject

log = logs.get(__name__)

_NO_RESPONDERS = b"NATS/1.0 503"


class Feedback:
    """Reports to the send buffer, the loss detector and the ack tracker what the bus says of published relays."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        send_buffer: SendBuffer,
        publisher: Publisher,
        acks: AckTracker,
        losses: LossDetector,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._send_buffer = send_buffer
        self._publisher = publisher
        self._acks = acks
        self._losses = losses

    async def start(self) -> None:
        """Subscribe to receipts, acknowledgements and reports of suspected losses."""
        await self._bus.subscribe_direct(subjects.receipt_all(self._instance), self._on_receipt)
        await self._bus.subscribe_direct(subjects.acks(self._instance), self._on_acks)
        await self._bus.subscribe(subjects.DOUBT, self._on_suspected_loss)
        self._bus.on_reconnect.append(self._on_reconnect)

    def _on_acks(self, _subject: str, _reply: str, payload: bytes, _head: bytes) -> None:
        acks, now = Acks.model_validate_json(payload), time.monotonic()
        if acks.done or acks.gaps:
            self._losses.acknowledged(acks.by, now)
        for session, token, number, attempt in acks.done:
            if window := self._send_buffer.get(session, token):
                window.acknowledged(number, attempt, now)
        for session, token in acks.gaps:
            if window := self._send_buffer.get(session, token):
                window.gap_reported()
        self._losses.sessions_suspected(acks.lost)

    async def _on_suspected_loss(self, _: Msg) -> None:
        self._losses.all_suspected()

    async def _on_reconnect(self) -> None:
        """Suspect all relays: those published just before the connection broke may be lost, also those of others."""
        self._losses.connection_lost()
        if self._bus.connected:
            self._bus.publish(subjects.DOUBT)

    def _on_receipt(self, subject: str, _reply: str, payload: bytes, head: bytes) -> None:
        receipt = subjects.receipt_of(subject)
        if head.startswith(_NO_RESPONDERS):
            self._on_no_responders(receipt)
        elif not payload:
            self._acks.delivered(receipt.session, receipt.number)
        else:
            self._on_refusal(receipt, json.loads(payload))

    def _on_refusal(self, receipt: ReceiptSubject, wire: dict[str, str]) -> None:
        session, number, attempt = receipt.session, receipt.number, receipt.attempt
        error = SignallingError.from_wire(wire)
        call_over = isinstance(error, ReceiverNotFound)
        unknown = self._send_buffer.refuse(session, number, attempt, call_over=call_over)
        self._acks.refused(session, number, error, wire.get("event", ""), notify=unknown)

    def _on_no_responders(self, receipt: ReceiptSubject) -> None:
        """Retransmit, because no callcore took a relay, or no gateway took its delivery."""
        window = self._send_buffer.find(receipt.session, receipt.number)
        if window is None or receipt.attempt != window.attempt:
            return
        if receipt.flags & DELIVERY:
            self._losses.sessions_suspected((receipt.session,))
            return
        if window.owner is not None:
            log.info("callcore is not there", callcore=window.owner)
            self._publisher.drop_owner(window.owner)
            window.owner_lost()
        for other in self._send_buffer:
            self._publisher.update_owner(other)
            if other.needs_retransmission:
                self._publisher.retransmit(other)
