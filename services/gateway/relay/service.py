"""Offers, answers and candidates on their way to call control.

A relay is published, not requested: nothing waits for it. It stays in the outbox until call control acknowledges that
it has been passed on; when that does not come, when another instance is in charge now, and when NATS was away, all that
is not acknowledged is sent again, in order, before anything newer of the same session and call (:mod:`.tending`). On
the receipt subject may come back a refusal, the receipt of the peer's gateway if the client wants an acknowledgement,
or NATS's word that nobody is there (:mod:`.receipts`).
"""

import asyncio
import time

from services.gateway.clients.registry import Registry, Socket
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.relay_payload import payload_of
from services.gateway.relay.ack_tracker import AckTracker
from services.gateway.relay.feedback import Feedback
from services.gateway.relay.publisher import Publisher
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.retransmitter import Retransmitter
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import OutstandingRelay, SendWindow
from shared.clock import now_seq
from shared.contracts.calls import CallReply, FindRequest
from shared.contracts.client import RELAYED, Event, Relayed
from shared.contracts.relays import stamp
from shared.errors import Unavailable
from shared.ids import encode, new_id
from shared.messaging.membership import Membership
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus

_CROWDED_SECONDS = 0.01
_STOP_LOOK_SECONDS = 0.02


class RelayService:
    """Sends relays, and again. ``ack_seconds``: how long a client's acknowledgement may take."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        members: Membership,
        registry: Registry,
        replies: Responder,
        services: RpcClient,
        heard: ReceiveOrder,
        *,
        ack_seconds: float,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._members = members
        self._services = services
        self._send_buffer = SendBuffer()
        self._answers = AckTracker(self._send_buffer, registry, replies, ack_seconds=ack_seconds)
        self._pump = Publisher(instance, bus, members)
        self._receipts = Feedback(instance, bus, self._send_buffer, self._pump, self._answers)
        self._tending = Retransmitter(
            instance, bus, self._send_buffer, self._pump, self._receipts, self._answers, heard
        )
        self.taken: dict[Event, int] = dict.fromkeys(RELAYED, 0)
        """Event → relays that clients sent, but for those that were refused at once."""

    async def start(self) -> None:
        """Listen for what comes back, and look after what does not."""
        await self._receipts.start()
        self._tending.start()

    async def stop(self, timeout: float) -> None:
        """Wait until everything sent is acknowledged, ``timeout`` seconds at most."""
        until = time.monotonic() + timeout
        while any(flow.owes() for flow in self._send_buffer) and time.monotonic() < until:
            await asyncio.sleep(_STOP_LOOK_SECONDS)
        await self._tending.stop()

    @property
    def resent(self) -> int:
        """Relays that were sent again."""
        return self._pump.resent

    @property
    def given_up(self) -> int:
        """Relays that were given up."""
        return self._tending.given_up

    @property
    def send_buffer(self) -> SendBuffer:
        """The relays that are not acknowledged yet, or were of late."""
        return self._send_buffer

    @property
    def answers(self) -> AckTracker:
        """The acknowledgements that clients wait for."""
        return self._answers

    async def send(self, asked: ClientRequest, relayed: Relayed) -> None:
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
        asked: ClientRequest | None = None,
    ) -> bool:
        """Send a relay, of which nothing is left to be checked. ``asked``: if its client wants an acknowledgement.

        False if the client sends faster than call control takes: it is to wait. Raises :class:`Unavailable` for one
        that will never be sent, and :class:`shared.errors.RateLimited` for a candidate or a byte too many.
        """
        user, session = socket.user, socket.session
        if user is None or session is None:
            raise Unavailable  # replaced meanwhile
        wanted = asked is not None and asked.ack_id is not None
        now, size = time.monotonic(), len(payload)
        flow = self._send_buffer.ready(session, encode(call), size)
        if flow is None or flow.generation != self._members.generation:
            flow = self._flow(session, call, size, now)
            if flow.crowded(now):
                return False
        if wanted and (flow.owner is None or not self._bus.connected):
            raise Unavailable  # known at once, so that the client need not wait to hear it

        if socket.rates is not None:
            socket.rates.charge_bytes(size, now)
            if event is Event.CANDIDATE:
                socket.rates.count_candidates(call, payload)
        moved = flow.moved
        number = self._send_buffer.number_after_move(flow, now_seq()) if moved else flow.last + 1
        tail = flow.tails.get((to, event)) or flow.tail(user, to, event)
        sent = OutstandingRelay(number, event, tail, stamp(payload, session, number), wanted, now, -1, moved)
        marks = self._send_buffer.add(flow, sent, now)
        self.taken[event] += 1
        if asked is not None and wanted:
            self._answers.wait(asked, flow, sent, now)
        if flow.behind:
            self._pump.again(flow)
        else:
            try:
                self._pump.publish(flow, sent, marks)
            except Unavailable:
                flow.behind = True
        return True

    def settle(self, socket: Socket) -> None:
        """Answer what can be answered to ``socket``, which is about to be closed."""
        self._answers.settle(socket)

    def moved(self, session: str) -> None:
        """A session has come to another socket: what it sends now follows what it may have sent elsewhere."""
        for flow in self._send_buffer.of(session):
            flow.moved = True

    def _flow(self, session: str, call: str, size: int, now: float) -> SendWindow:
        """The flow of a relay of ``size`` bytes. Raises :class:`Unavailable` if there is no room for it."""
        flow = self._send_buffer.get(session, encode(call))
        self._send_buffer.check_room(session, flow, size)
        if flow is None:
            flow = self._send_buffer.open(session, call, now_seq(), now)
        if flow.generation != self._members.generation:
            self._pump.look(flow)
        return flow

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
