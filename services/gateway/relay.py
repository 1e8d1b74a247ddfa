"""Offers, answers and candidates on their way to call control, and what comes back of them.

A relay is published, not requested: nothing waits for it. It stays in the outbox until call control acknowledges that
it has been passed on; when that does not come, when another instance is in charge now, and when NATS was away, all that
is not acknowledged is sent again, in order, before anything newer of the same session and call. On the receipt subject
may come back a refusal, the receipt of the peer's gateway if the client wants an acknowledgement, or NATS's word that
nobody is there.
"""

import asyncio
import json
import time
from typing import Any

from nats.aio.msg import Msg

from services.gateway.answers import Answers
from services.gateway.bundle import Bundle
from services.gateway.heard import Heard
from services.gateway.outbox import AGAIN_SECONDS, Flow, Outbox, Sent
from services.gateway.replies import Asked, Replies, dumps
from services.gateway.sessions import Registry, Socket
from shared import logs, subjects
from shared.bus import Bus
from shared.clock import now_seq
from shared.contracts.calls import CallReply, FindRequest
from shared.contracts.client import RELAYED, Answer, Candidate, Event, Offer, Relayed
from shared.contracts.relays import Acks, stamp
from shared.errors import BadRequest, ReceiverNotFound, SignallingError, Unavailable
from shared.ids import encode, new_id
from shared.members import Members
from shared.rpc import Client

log = logs.get(__name__)

CALLCORE = "callcore"
_INSTANCES_MAX = 256
_TICK_SECONDS = 0.25
_CROWDED_SECONDS = 0.01


class Relays:
    """Sends relays, and again. ``ack_seconds``: how long a client's acknowledgement may take."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        members: Members,
        registry: Registry,
        replies: Replies,
        services: Client,
        heard: Heard,
        *,
        ack_seconds: float,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._members = members
        self._services = services
        self._heard = heard
        self._outbox = Outbox()
        self._answers = Answers(self._outbox, registry, replies, ack_seconds=ack_seconds)
        self._acked_by: dict[str, float] = {}
        self._doubt = False
        self._doubted_at = 0.0
        self._lost: set[str] = set()
        self._bundle: Bundle | None = None
        """The candidate that was published last, while another one may join it."""
        self.taken: dict[Event, int] = dict.fromkeys(RELAYED, 0)
        """Event → relays that clients sent, but for those that were refused at once."""
        self.resent = 0
        """Relays that were sent again, and those that were given up."""
        self.given_up = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for receipts and acknowledgements."""
        await self._bus.subscribe(subjects.receipt_all(self._instance), self._on_receipt)
        await self._bus.subscribe(subjects.acks(self._instance), self._on_acks)
        await self._bus.subscribe(subjects.DOUBT, self._on_doubt)
        self._bus.on_reconnect.append(self._reconnected)
        self._task = asyncio.create_task(self._run(), name="relays")

    async def stop(self, timeout: float) -> None:
        """Wait until everything sent is acknowledged, ``timeout`` seconds at most."""
        until = time.monotonic() + timeout
        while any(flow.owes() for flow in self._outbox) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def outbox(self) -> Outbox:
        """The relays that are not acknowledged yet, or were of late."""
        return self._outbox

    @property
    def answers(self) -> Answers:
        """The acknowledgements that clients wait for."""
        return self._answers

    # --- sending --------------------------------------------------------------------------------------------------

    async def send(self, asked: Asked, relayed: Relayed) -> None:
        """Send a relay. The acknowledgement, if one is wanted, comes when the peer's gateway has it.

        Raises :class:`Unavailable` for one that will never be sent.
        """
        socket = asked.socket
        call = relayed.call_id or await self._find(socket, relayed.to)
        if asked.ack_id is not None:
            self._answers.check_room(socket)
        payload = payload_of(relayed, relayed.from_, call)
        while not self.pass_on(socket, Event(asked.event), relayed.to, call, payload, asked):
            await asyncio.sleep(_CROWDED_SECONDS)

    def pass_on(
        self,
        socket: Socket,
        event: Event,
        to: str,
        call: str,
        payload: bytes,
        asked: Asked | None = None,
    ) -> bool:
        """Send a relay, of which nothing is left to be checked. ``asked``: if its client wants an acknowledgement.

        False if the client sends faster than call control takes: it is to wait. Raises :class:`Unavailable` for one
        that will never be sent, and :class:`shared.errors.RateLimited` for a candidate too many.
        """
        if socket.user is None or socket.session is None:
            raise Unavailable  # replaced meanwhile
        wanted = asked is not None and asked.ack_id is not None
        now = time.monotonic()
        flow = self._flow(socket.session, call, len(payload), now)
        if flow.crowded(now):
            return False
        if wanted and (flow.owner is None or not self._bus.connected):
            raise Unavailable  # known at once, so that the client need not wait to hear it

        if event is Event.CANDIDATE and socket.rates is not None:
            socket.rates.count_candidates(call, payload)
        moved = flow.moved
        number = self._outbox.number_after_move(flow, now_seq()) if moved else flow.last + 1
        payload = stamp(payload, flow.session, number)
        sent = Sent(number, event, flow.tail(socket.user, to, event), payload, wanted, now, starts=moved)
        before, follows = flow.previous, flow.waiting
        self._outbox.add(flow, sent, now)
        self.taken[event] += 1
        flow.previous = sent
        if asked is not None and wanted:
            self._answers.wait(asked, flow, sent, now)
        if flow.behind:
            self._pump(flow)
        else:
            try:
                self._publish(flow, sent, flow.marks(sent, before, follows=follows))
            except Unavailable:
                flow.behind = True
        return True

    def moved(self, session: str) -> None:
        """A session has come to another socket: what it sends now follows what it may have sent elsewhere."""
        for flow in self._outbox.of(session):
            flow.moved = True

    def _flow(self, session: str, call: str, size: int, now: float) -> Flow:
        """The flow of a relay of ``size`` bytes. Raises :class:`Unavailable` if there is no room for it."""
        flow = self._outbox.get(session, encode(call))
        self._outbox.check_room(session, flow, size)
        if flow is None:
            flow = self._outbox.open(session, call, now_seq(), now)
        if flow.generation != self._members.generation:
            self._look(flow)
        return flow

    def _look(self, flow: Flow) -> None:
        """Find out who is in charge of a flow's call now; if that has changed, what is in hand goes there first."""
        if flow.generation != self._members.generation:
            flow.generation = self._members.generation
            owner = self._members.owner(CALLCORE, flow.token)
            if owner is None or (owner != flow.owner and flow.waiting):
                flow.behind = True
            flow.owner = owner

    def _publish(self, flow: Flow, sent: Sent, marks: str) -> None:
        subject = f"relay.{flow.owner}.{sent.tail}"
        if sent.first < 0:
            sent.first = subjects.attempt_of(marks)
        bundle = self._bundle
        if bundle is not None and (joined := bundle.joined(subject, sent, marks)) is not None:
            message = self._bus.amend(bundle.message, subject, *joined)
            if message is not None:
                bundle.join(sent, message)
                return
        reply = subjects.receipt(self._instance, flow.session, sent.number, marks)
        message = self._bus.publish(subject, sent.payload, reply)
        self._bundle = Bundle(subject, reply, sent, marks, message) if Bundle.may_begin(sent, marks) else None

    def _pump(self, flow: Flow) -> None:
        """Send all that is not acknowledged, in order."""
        if flow.owner is None or not self._bus.connected:
            return
        flow.begin(time.monotonic())
        follows = False
        try:
            for before, sent in flow.after(flow.acked):
                self._publish(flow, sent, flow.marks(sent, before, follows=follows))
                follows = True
                self.resent += 1
        except Unavailable:
            flow.behind = True

    async def _find(self, socket: Socket, peer: str) -> str:
        """The call with ``peer``. Raises :class:`shared.errors.ReceiverNotFound`."""
        call = socket.calls.get(peer)
        if call is None:
            assert socket.user is not None and socket.session is not None
            request = FindRequest(
                request_id=new_id(), user=socket.user, session=socket.session, gateway=self._instance, to=peer
            )
            call = (await self._services.ask("calls", "find", request, CallReply)).call
            socket.remember_call(peer, call)
        return call

    # --- what comes back ------------------------------------------------------------------------------------------

    async def _on_acks(self, msg: Msg) -> None:
        acks, now = Acks.model_validate_json(msg.data), time.monotonic()
        if acks.done or acks.gaps:
            self._acked_by.pop(acks.by, None)
            self._acked_by[acks.by] = now
            if len(self._acked_by) > _INSTANCES_MAX:
                del self._acked_by[next(iter(self._acked_by))]
        for session, token, number, attempt in acks.done:
            if flow := self._outbox.get(session, token):
                flow.acknowledge(number, attempt, now)
        for session, token in acks.gaps:
            if flow := self._outbox.get(session, token):
                flow.missed = True
        self._lost.update(session for session in acks.lost if self._outbox.of(session))

    async def _on_doubt(self, _: Msg) -> None:
        self._doubt = True

    async def _reconnected(self) -> None:
        """What was published just before the connection broke may be lost, and so may what others published for us."""
        self._doubt = True
        self._doubted_at = 0.0
        if self._bus.connected:
            self._bus.publish(subjects.DOUBT)

    async def _on_receipt(self, msg: Msg) -> None:
        _, session, number, marks, _ = subjects.receipt_of(msg.subject)
        if msg.headers is not None and msg.headers.get("Status") == "503":
            self._nobody(session, number, marks)
            return
        if not msg.data:
            self._answers.taken(session, number)
            return
        flow = self._outbox.find(session, number)
        sent = next((s for s in flow.queue if s.number == number), None) if flow is not None else None
        wire = json.loads(msg.data)
        error = SignallingError.from_wire(wire)
        known = flow is None or sent is None or not sent.payload or number <= flow.doubted
        if sent is not None:
            # One that comes again may have been passed on before and find its call over by now; that is no refusal.
            again = subjects.attempt_of(marks) != sent.first
            known = known or (again and isinstance(error, ReceiverNotFound))
            self._outbox.void(sent)
        self._answers.refused(session, number, error, wire.get("event", ""), known=known)

    def _nobody(self, session: str, number: int, marks: str) -> None:
        """NATS says that nobody took a relay, or the letter that was made of it."""
        flow = self._outbox.find(session, number)
        if flow is None or subjects.attempt_of(marks) != flow.attempt:
            return
        if subjects.LETTER in marks:
            self._lost.add(session)
            return
        if flow.owner is not None:
            log.info("callcore is gone", callcore=flow.owner)
            self._members.drop(CALLCORE, flow.owner)
            flow.behind = True
        for other in self._outbox:
            self._look(other)
            if other.behind:
                self._pump(other)

    # --- what does not come back ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                now = time.monotonic()
                self._answers.expire(now)
                if self._bus.connected:
                    self._raise_doubts(now)
                    self._tell_missed()
                for flow in self._outbox:
                    if flow.waiting:
                        self._tend(flow, now)
                    elif self._bus.connected:
                        self._outbox.trim(flow, now)
            except Unavailable:
                log.debug("NATS went away")
            except Exception:
                log.exception("relays not tended")

    def settle(self, socket: Socket) -> None:
        """Answer what can be answered to ``socket``, which is about to be closed."""
        self._answers.settle(socket)

    def _raise_doubts(self, now: float) -> None:
        if not (self._doubt or self._lost) or now < self._doubted_at + AGAIN_SECONDS:
            return
        flows = list(self._outbox) if self._doubt else [f for s in self._lost for f in self._outbox.of(s)]
        self._doubt, self._doubted_at = False, now
        self._lost.clear()
        for flow in flows:
            flow.doubt()
        if flows:
            log.info("relays of late are sent again", flows=len(flows))

    def _tell_missed(self) -> None:
        """Have others send again what clients of this gateway miss."""
        for gateway, sessions in self._heard.take_missed().items():
            told = Acks(by=self._instance, lost=tuple(sessions))
            self._bus.publish(subjects.acks(gateway), told.dump())

    def _tend(self, flow: Flow, now: float) -> None:
        """Give up what is too old of a flow that waits, and send the rest again if it is time."""
        for sent in self._outbox.give_up(flow, now):
            self.given_up += 1
            log.warning("relay given up", session=flow.session, call=flow.call, relayed=sent.event)
            self._answers.refused(flow.session, sent.number, Unavailable(), sent.event, known=False)
        if not self._bus.connected:
            return
        self._look(flow)
        if flow.stalled(now):
            flow.probing = not flow.missed
            flow.behind = True
        elif flow.probing and now > flow.pumped_at + AGAIN_SECONDS:
            flow.probing = False
            if flow.owner is not None and self._acked_by.get(flow.owner, 0.0) < flow.pumped_at:
                log.warning("callcore does not acknowledge", callcore=flow.owner)
                self._members.drop(CALLCORE, flow.owner)
                self._look(flow)
        if flow.behind:
            self._pump(flow)
        self._outbox.trim(flow, now)


def payload_of(relayed: Relayed, user: str, call: str) -> bytes:
    """Exactly what the peer will see, but for ``seq``."""
    match relayed:
        case Offer():
            body: dict[str, Any] = {"offer": relayed.offer}
            if relayed.call_type is not None:
                body["callType"] = relayed.call_type
        case Answer():
            body = {"answer": relayed.answer}
        case Candidate(candidates=None):
            body = {"candidate": relayed.candidate}
        case Candidate():
            body = {"candidates": relayed.candidates}
        case _:
            raise AssertionError("not relayed")
    try:
        return dumps({**body, "from": user, "callId": call})
    except ValueError:
        raise BadRequest("payload: numbers must be finite") from None
