"""What clients are told about the relays that they sent."""

import itertools
from collections import OrderedDict
from dataclasses import dataclass

from services.gateway.clients.registry import Registry, Socket
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import OutstandingRelay, SendWindow
from shared.errors import RateLimited, ReceiverNotFound, SignallingError, Unavailable

QUEUED_SECONDS = 1.0
"""How long the peer's gateway may take to say that it has a relay, before its sender is told that it waits there."""
ACKS_PER_SOCKET = 1_024

Key = tuple[str, int]
"""(session, number) of a relay"""


@dataclass(frozen=True, slots=True)
class WantedAck:
    """An acknowledgement that a client waits for."""

    asked: ClientRequest
    flow: SendWindow
    sent: OutstandingRelay
    since: float


class AckTracker:
    """The acknowledgements that clients wait for. ``ack_seconds``: how long one may take."""

    def __init__(
        self, send_buffer: SendBuffer, registry: Registry, replies: Responder, *, ack_seconds: float
    ) -> None:
        self._send_buffer = send_buffer
        self._registry = registry
        self._replies = replies
        self._ack_seconds = ack_seconds
        # Each is in the order in which they began to wait.
        self._wanted: OrderedDict[Key, WantedAck] = OrderedDict()
        self._late: OrderedDict[Key, WantedAck] = OrderedDict()
        """Those whose peer's gateway has not answered in :data:`QUEUED_SECONDS`."""

    def __len__(self) -> int:
        """How many are waited for."""
        return len(self._wanted) + len(self._late)

    def check_room(self, socket: Socket) -> None:
        """Raises :class:`RateLimited` if too many wait already."""
        if socket.acks_pending >= ACKS_PER_SOCKET:
            raise RateLimited("Too many acknowledgements are waiting", retry_after_ms=1000)

    def wait(self, asked: ClientRequest, flow: SendWindow, sent: OutstandingRelay, now: float) -> None:
        """A client wants to know what becomes of a relay."""
        asked.socket.acks_pending += 1
        self._wanted[flow.session, sent.number] = WantedAck(asked, flow, sent, now)

    def taken(self, session: str, number: int) -> None:
        """The peer's gateway has it."""
        if wanted := self._done(session, number):
            self._replies.ok(wanted.asked)

    def refused(self, session: str, number: int, error: SignallingError, event: str, *, known: bool) -> None:
        """It does not get there. ``known``: its client has been told, unless it is waiting still."""
        wanted = self._done(session, number)
        if wanted is None and known:
            return
        socket = wanted.asked.socket if wanted is not None else self._registry.by_session(session)
        if socket is not None:
            if isinstance(error, ReceiverNotFound):
                socket.calls.clear()
            self._replies.refuse(
                wanted.asked if wanted is not None else ClientRequest(socket, event, None), error
            )

    def settle(self, socket: Socket) -> None:
        """Answer what of ``socket``, which is about to be closed, call control has taken: its peer gets it in time."""
        waiting = itertools.chain(self._late.items(), self._wanted.items())
        mine = [(key, wanted) for key, wanted in waiting if wanted.asked.socket is socket]
        for key, wanted in mine:
            if wanted.sent.number <= wanted.flow.acked and self._done(*key) is not None:
                self._replies.ok(wanted.asked, queued=True)

    def expire(self, now: float) -> None:
        """Answer who has waited long enough: that it waits for the peer, or else, later, that nobody knows."""
        late = now - min(QUEUED_SECONDS, self._ack_seconds)
        old = itertools.takewhile(lambda item: item[1].since <= late, self._wanted.items())
        for key in [key for key, _ in old]:
            self._late[key] = self._wanted.pop(key)
        for key, wanted in list(self._late.items()):
            if wanted.sent.number <= max(wanted.flow.acked, wanted.flow.doubted):
                if self._done(*key) is not None:
                    self._replies.ok(wanted.asked, queued=True)
            elif wanted.since <= now - self._ack_seconds and self._done(*key) is not None:
                # Its client may send it again, so it is not to get through by itself as well.
                self._send_buffer.void(wanted.sent)
                self._replies.refuse(wanted.asked, Unavailable())

    def _done(self, session: str, number: int) -> WantedAck | None:
        wanted = self._wanted.pop((session, number), None) or self._late.pop((session, number), None)
        if wanted is not None:
            wanted.asked.socket.acks_pending -= 1
        return wanted
