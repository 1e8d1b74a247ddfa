"""Answer clients that want an acknowledgement of a relay."""

import itertools
from collections import OrderedDict
from dataclasses import dataclass

from services.gateway.clients.registry import Registry, Socket
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import OutstandingRelay, SendWindow
from shared.errors import RateLimited, ReceiverNotFound, SignallingError, Unavailable

QUEUED_SECONDS = 1.0
"""Seconds without a receipt after which the client is answered ``queued``, if callcore has the relay."""
ACKS_PER_SOCKET = 1_024
"""Acknowledgements for which one socket may wait."""

Key = tuple[str, int]
"""(session, number) of a relay"""


@dataclass(frozen=True, slots=True)
class PendingAck:
    """An acknowledgement that a client waits for. ``since``: when it began to wait."""

    request: ClientRequest
    window: SendWindow
    relay: OutstandingRelay
    since: float


class AckTracker:
    """The acknowledgements that clients wait for. ``ack_seconds``: how long one may take."""

    def __init__(
        self, send_buffer: SendBuffer, registry: Registry, responder: Responder, *, ack_seconds: float
    ) -> None:
        self._send_buffer = send_buffer
        self._registry = registry
        self._responder = responder
        self._ack_seconds = ack_seconds
        # Each is in the order in which its clients began to wait.
        self._pending: OrderedDict[Key, PendingAck] = OrderedDict()
        self._late: OrderedDict[Key, PendingAck] = OrderedDict()
        """Those for which no receipt has come within :data:`QUEUED_SECONDS`."""

    def __len__(self) -> int:
        """Return how many acknowledgements clients wait for."""
        return len(self._pending) + len(self._late)

    def check_room(self, socket: Socket) -> None:
        """Raise :class:`RateLimited` if a socket waits for too many acknowledgements."""
        if socket.acks_pending >= ACKS_PER_SOCKET:
            raise RateLimited("Too many acknowledgements are waiting", retry_after_ms=1000)

    def expect(self, request: ClientRequest, window: SendWindow, relay: OutstandingRelay, now: float) -> None:
        """Answer ``request`` when the outcome of a relay is known."""
        request.socket.acks_pending += 1
        self._pending[window.session, relay.number] = PendingAck(request, window, relay, now)

    def delivered(self, session: str, number: int) -> None:
        """Acknowledge a relay to its client: the receiving gateway has sent the receipt."""
        if pending := self._pop(session, number):
            self._responder.ok(pending.request)

    def refused(self, session: str, number: int, error: SignallingError, event: str, *, notify: bool) -> None:
        """Answer a relay with an error. ``notify``: also send it to a client that waits for no acknowledgement."""
        pending = self._pop(session, number)
        if pending is None and not notify:
            return
        socket = pending.request.socket if pending is not None else self._registry.by_session(session)
        if socket is not None:
            if isinstance(error, ReceiverNotFound):
                socket.calls.clear()
            request = pending.request if pending is not None else ClientRequest(socket, event, None)
            self._responder.refuse(request, error)

    def settle(self, socket: Socket) -> None:
        """Answer ``queued`` to a socket that is about to be closed, for each relay that callcore has acknowledged."""
        pending = itertools.chain(self._late.items(), self._pending.items())
        of_socket = [(key, ack) for key, ack in pending if ack.request.socket is socket]
        for key, ack in of_socket:
            if ack.window.is_acknowledged(ack.relay.number) and self._pop(*key) is not None:
                self._responder.ok(ack.request, queued=True)

    def expire(self, now: float) -> None:
        """Answer late acknowledgements: ``queued`` if callcore has the relay, ``unavailable`` after ``ack_seconds``."""
        late = now - min(QUEUED_SECONDS, self._ack_seconds)
        old = itertools.takewhile(lambda item: item[1].since <= late, self._pending.items())
        for key in [key for key, _ in old]:
            self._late[key] = self._pending.pop(key)
        for key, ack in list(self._late.items()):
            if ack.window.was_acknowledged(ack.relay.number):
                if self._pop(*key) is not None:
                    self._responder.ok(ack.request, queued=True)
            elif ack.since <= now - self._ack_seconds and self._pop(*key) is not None:
                # The client may send it again, so this one must not be delivered later.
                self._send_buffer.withdraw(ack.window, ack.relay)
                self._responder.refuse(ack.request, Unavailable())

    def _pop(self, session: str, number: int) -> PendingAck | None:
        pending = self._pending.pop((session, number), None) or self._late.pop((session, number), None)
        if pending is not None:
            pending.request.socket.acks_pending -= 1
        return pending
