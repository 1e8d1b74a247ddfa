"""Send relays (offers, answers, candidates) of clients to callcore.

A relay is published, not requested: its client does not wait. It stays in its send window until callcore acknowledges
that it has been passed on. Outstanding relays are retransmitted in order, before newer ones of the same session and
call, if an acknowledgement is overdue, if another callcore owns the call, and if NATS was away. The messages are in
docs/relay-wire-format.md.
"""

import asyncio
import time

from services.gateway.clients.registry import Registry, Socket
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.relay_payload import payload_of
from services.gateway.relay.ack_tracker import AckTracker
from services.gateway.relay.feedback import Feedback
from services.gateway.relay.loss_detector import LossDetector
from services.gateway.relay.publisher import Publisher
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.retransmitter import Retransmitter
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import SendWindow
from shared.clock import now_seq
from shared.contracts.calls import CallReply, FindRequest
from shared.contracts.client import RELAYED, Event, Relayed
from shared.errors import Unavailable
from shared.ids import encode, new_id
from shared.messaging.membership import Membership
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus

_FULL_SECONDS = 0.01
_STOP_LOOK_SECONDS = 0.02


class RelayService:
    """Sends relays until they are acknowledged. ``ack_seconds``: how long a client's acknowledgement may take."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        members: Membership,
        registry: Registry,
        responder: Responder,
        services: RpcClient,
        receive_order: ReceiveOrder,
        *,
        ack_seconds: float,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._members = members
        self._services = services
        self._send_buffer = SendBuffer()
        self._acks = AckTracker(self._send_buffer, registry, responder, ack_seconds=ack_seconds)
        self._publisher = Publisher(instance, bus, members)
        losses = LossDetector(self._send_buffer)
        self._feedback = Feedback(instance, bus, self._send_buffer, self._publisher, self._acks, losses)
        self._retransmitter = Retransmitter(
            instance, bus, self._send_buffer, self._publisher, self._acks, losses, receive_order
        )
        self.accepted: dict[Event, int] = dict.fromkeys(RELAYED, 0)
        """Event → relays of clients that were accepted into a send window."""

    async def start(self) -> None:
        """Subscribe to feedback, and start the retransmitter."""
        await self._feedback.start()
        self._retransmitter.start()

    async def stop(self, timeout: float) -> None:
        """Wait until all relays are acknowledged, ``timeout`` seconds at most, and stop the retransmitter."""
        until = time.monotonic() + timeout
        while any(window.has_undelivered() for window in self._send_buffer) and time.monotonic() < until:
            await asyncio.sleep(_STOP_LOOK_SECONDS)
        await self._retransmitter.stop()

    @property
    def resent(self) -> int:
        """Relays that were retransmitted."""
        return self._publisher.resent

    @property
    def given_up(self) -> int:
        """Relays that were given up."""
        return self._retransmitter.given_up

    @property
    def send_buffer(self) -> SendBuffer:
        """The send windows, with all relays that are kept."""
        return self._send_buffer

    @property
    def acks(self) -> AckTracker:
        """The acknowledgements that clients wait for."""
        return self._acks

    async def send(self, request: ClientRequest, relayed: Relayed) -> None:
        """Send a relay as soon as its window has room. Its acknowledgement, if wanted, follows the receipt.

        Raises :class:`Unavailable` for a relay that will never be sent, and :class:`shared.errors.RateLimited`.
        """
        socket = request.socket
        call = relayed.call_id or await self._find(socket, relayed.to)
        if request.ack_id is not None:
            self._acks.check_room(socket)
        payload = payload_of(relayed, relayed.from_, call)
        while not self.try_send(socket, Event(request.event), relayed.to, call, payload, request):
            await asyncio.sleep(_FULL_SECONDS)

    def try_send(
        self,
        socket: Socket,
        event: Event,
        to: str,
        call: str,
        payload: bytes,
        request: ClientRequest | None = None,
    ) -> bool:
        """Send a validated relay. ``request``: answered with the outcome if its client wants an acknowledgement.

        Return False if the window is full: the client sends faster than callcore acknowledges, and has to wait.
        Raises :class:`Unavailable` for a relay that will never be sent, and :class:`shared.errors.RateLimited` for a
        candidate or a byte too many.
        """
        user, session = socket.user, socket.session
        if user is None or session is None:
            raise Unavailable  # another socket has replaced this one
        wants_receipt = request is not None and request.ack_id is not None
        now, size = time.monotonic(), len(payload)
        window = self._send_buffer.ready(session, encode(call), size, self._members.generation)
        if window is None:
            window = self._window(session, call, size, now)
            if window.is_full(now):
                return False
        if wants_receipt and (window.owner is None or not self._bus.connected):
            raise Unavailable  # at once, because the relay may take longer than the client waits

        if socket.rates is not None:
            socket.rates.charge_bytes(size, now)
            if event is Event.CANDIDATE:
                socket.rates.count_candidates(call, payload)
        relay, flags = self._send_buffer.add(
            window, user, to, event, payload, now, wants_receipt=wants_receipt
        )
        self.accepted[event] += 1
        if request is not None and wants_receipt:
            self._acks.expect(request, window, relay, now)
        if flags is None:
            self._publisher.retransmit(window)
        else:
            self._publisher.publish(window, relay, flags)
        return True

    def settle(self, socket: Socket) -> None:
        """Answer the pending acknowledgements of a socket that is about to be closed, as far as they are known."""
        self._acks.settle(socket)

    def session_moved(self, session: str) -> None:
        """Start new series of numbers for a session that continues on another socket: it may come from elsewhere."""
        for window in self._send_buffer.of(session):
            window.session_moved()

    def _window(self, session: str, call: str, size: int, now: float) -> SendWindow:
        """Return the window for a relay of ``size`` bytes. Raises :class:`Unavailable` if there is no room for it."""
        window = self._send_buffer.get(session, encode(call))
        self._send_buffer.check_room(session, window, size)
        if window is None:
            window = self._send_buffer.open(session, call, now_seq(), now)
        if window.has_moved:
            self._send_buffer.renumber(window, now_seq())
        self._publisher.update_owner(window)
        return window

    async def _find(self, socket: Socket, peer: str) -> str:
        """Return the call with ``peer``, from callcore if it is not remembered.

        Raises :class:`shared.errors.ReceiverNotFound`.
        """
        call = socket.calls.get(peer)
        if call is None:
            assert socket.user is not None and socket.session is not None
            request = FindRequest(
                request_id=new_id(), user=socket.user, session=socket.session, gateway=self._instance, to=peer
            )
            call = (await self._services.ask("calls", "find", request, CallReply)).call
            socket.remember_call(peer, call)
        return call
