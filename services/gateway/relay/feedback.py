"""What comes back of relays: acknowledgements, refusals, receipts of the peers' gateways, and that nobody is there."""

import json
import time

from nats.aio.msg import Msg

from services.gateway.relay.ack_tracker import AckTracker
from services.gateway.relay.publisher import Publisher
from services.gateway.relay.send_buffer import SendBuffer
from shared import subjects
from shared.contracts.relays import Acks
from shared.errors import ReceiverNotFound, SignallingError
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)

_INSTANCES_MAX = 256
_NOBODY = b"NATS/1.0 503"


class Feedback:
    """Hears of relays that were sent, and notes it in the outbox."""

    def __init__(
        self, instance: str, bus: Bus, send_buffer: SendBuffer, pump: Publisher, answers: AckTracker
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._send_buffer = send_buffer
        self._pump = pump
        self._answers = answers
        self._acked_by: dict[str, float] = {}
        self.doubt = False
        """Whether somebody was cut off from NATS, so that of all relays of late some may be lost."""
        self.cut_off = False
        """Whether that was this gateway."""
        self.lost: set[str] = set()
        """Sessions of whose relays some may be lost."""

    async def start(self) -> None:
        """Listen."""
        await self._bus.subscribe_direct(subjects.receipt_all(self._instance), self._on_receipt)
        await self._bus.subscribe_direct(subjects.acks(self._instance), self._on_acks)
        await self._bus.subscribe(subjects.DOUBT, self._on_doubt)
        self._bus.on_reconnect.append(self._reconnected)

    def acknowledged_by(self, callcore: str) -> float:
        """When an instance acknowledged something last."""
        return self._acked_by.get(callcore, 0.0)

    def _on_acks(self, _subject: str, _reply: str, payload: bytes, _head: bytes) -> None:
        acks, now = Acks.model_validate_json(payload), time.monotonic()
        if acks.done or acks.gaps:
            self._acked_by.pop(acks.by, None)
            self._acked_by[acks.by] = now
            if len(self._acked_by) > _INSTANCES_MAX:
                del self._acked_by[next(iter(self._acked_by))]
        for session, token, number, attempt in acks.done:
            if flow := self._send_buffer.get(session, token):
                flow.acknowledge(number, attempt, now)
        for session, token in acks.gaps:
            if flow := self._send_buffer.get(session, token):
                flow.missed = True
        self.lost.update(session for session in acks.lost if self._send_buffer.of(session))

    async def _on_doubt(self, _: Msg) -> None:
        self.doubt = True

    async def _reconnected(self) -> None:
        """What was published just before the connection broke may be lost, and so may what others published for us."""
        self.doubt = self.cut_off = True
        if self._bus.connected:
            self._bus.publish(subjects.DOUBT)

    def _on_receipt(self, subject: str, _reply: str, payload: bytes, head: bytes) -> None:
        _, session, number, marks, _ = subjects.receipt_of(subject)
        if head.startswith(_NOBODY):
            self._nobody(session, number, marks)
            return
        if not payload:
            self._answers.taken(session, number)
            return
        flow = self._send_buffer.find(session, number)
        sent = next((s for s in flow.queue if s.number == number), None) if flow is not None else None
        wire = json.loads(payload)
        error = SignallingError.from_wire(wire)
        known = flow is None or sent is None or not sent.payload or number <= flow.doubted
        if sent is not None:
            # One that comes again may have been passed on before and find its call over by now; that is no refusal.
            again = subjects.attempt_of(marks) != sent.first
            known = known or (again and isinstance(error, ReceiverNotFound))
            self._send_buffer.void(sent)
        self._answers.refused(session, number, error, wire.get("event", ""), known=known)

    def _nobody(self, session: str, number: int, marks: str) -> None:
        """NATS says that nobody took a relay, or the letter that was made of it."""
        flow = self._send_buffer.find(session, number)
        if flow is None or subjects.attempt_of(marks) != flow.attempt:
            return
        if subjects.LETTER in marks:
            self.lost.add(session)
            return
        if flow.owner is not None:
            log.info("callcore is gone", callcore=flow.owner)
            self._pump.gone(flow.owner)
            flow.behind = True
        for other in self._send_buffer:
            self._pump.look(other)
            if other.behind:
                self._pump.again(other)
