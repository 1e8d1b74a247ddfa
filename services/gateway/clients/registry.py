"""Register the sockets of this gateway, and the session that each is bound to."""

from collections import OrderedDict
from dataclasses import dataclass, field

from services.gateway.clients.relay_positions import RelayPositions
from services.gateway.limits.rate_limiter import SocketLimiter
from services.gateway.protocol.relay_template import RelayTemplates
from shared.contracts.client import Event

_INITIATED, _INCOMING, _ACCEPTED, _ENDED = 1, 2, 4, 8
_CALL_EVENTS: dict[str, tuple[int, int]] = {
    Event.INITIATED: (_INITIATED, _INITIATED | _ACCEPTED | _ENDED),
    Event.INCOMING: (_INCOMING, _INCOMING | _ACCEPTED | _ENDED),
    Event.ACCEPTED: (_ACCEPTED, _ACCEPTED | _ENDED),
    Event.REJECTED: (_ENDED, _ENDED),
    Event.ENDED: (_ENDED, _ENDED),
}
"""Call event → its flag, and the flags of events after which it is not sent any more: itself and later ones."""

CALLS_KEPT = 16
CALL_EVENTS_KEPT = 64
LEFT_MAX = 8_192
"""Sessions whose sockets are gone and whose relay positions are kept."""


@dataclass(slots=True, eq=False)
class Socket:
    """Holds the state of one connected client. ``user`` and ``session`` are ``None`` until it has joined."""

    sid: str
    """Socket.IO id, which clients see."""
    eio_sid: str
    """Engine.IO id of its connection."""
    user: str | None = None
    session: str | None = None
    device: str | None = None
    token: str = ""
    """The resume token that its client was sent; presence may have lost it."""
    gone: bool = False
    replaced: str | None = None
    """A session that another socket took over before this one was bound to it."""
    joining_user: str | None = None
    """The user that it is joining as. Presence may have given it a session that it is not bound to yet."""
    calls: dict[str, str] = field(default_factory=dict)
    """Peer → call, for relays that do not name the call."""
    acks_pending: int = 0
    call_events: dict[str, int] = field(default_factory=dict)
    """Call → flags of the call events that the client was sent, of its last calls."""
    positions: RelayPositions = field(default_factory=RelayPositions)
    """The relays that the client was sent."""
    caught_up: bool = True
    """True if the client was sent all that its session was sent, also on earlier sockets."""
    redelivered_upto: int = 0
    """Call events up to this ``seq`` are redelivered ones, which are not sent to the client again."""
    call_pending: bool = False
    """True if its call is still to be sent to it. Relays before that event are skipped: they come again after it."""
    seq: int = 0
    """The ``seq`` of the last mailbox message that the client was sent."""
    templates: RelayTemplates | None = None
    """Of the relays that it sends; of this user and session."""
    rates: SocketLimiter | None = None
    """Its rate limits; ``None`` if there are none."""

    def remember_call(self, peer: str, call: str) -> None:
        """Keep the call with ``peer``; the oldest is discarded if there are too many."""
        while len(self.calls) >= CALLS_KEPT:
            del self.calls[next(iter(self.calls))]
        self.calls[peer] = call

    def record_call_event(self, event: str, call: str) -> bool:
        """Record a call event. Return False if the client was sent it, or a later one of the call, before."""
        flag, superseded_by = _CALL_EVENTS[event]
        sent = self.call_events
        flags = sent.get(call)
        if flags is None:
            if len(sent) >= CALL_EVENTS_KEPT:
                del sent[next(iter(sent))]
            flags = 0
        elif flags & superseded_by:
            return False
        sent[call] = flags | flag
        return True


class Registry:
    """Finds sockets by Socket.IO id, by connection and by session."""

    def __init__(self) -> None:
        self._by_sid: dict[str, Socket] = {}
        self._by_connection: dict[str, Socket] = {}
        self._by_session: dict[str, Socket] = {}
        self._left: OrderedDict[str, tuple[RelayPositions, int]] = OrderedDict()
        """Session → the relays that its client was sent on its last socket here, and the last ``seq`` written there."""

    def __len__(self) -> int:
        return len(self._by_sid)

    def by_sid(self, sid: str) -> Socket | None:
        """Return the socket with a Socket.IO id."""
        return self._by_sid.get(sid)

    def by_connection(self, eio_sid: str) -> Socket | None:
        """Return the socket of a connection."""
        return self._by_connection.get(eio_sid)

    def by_session(self, session: str) -> Socket | None:
        """Return the socket that is bound to a session."""
        return self._by_session.get(session)

    @property
    def sessions(self) -> int:
        """Number of sessions that are joined here."""
        return len(self._by_session)

    def add(self, sid: str, eio_sid: str) -> Socket:
        """Register a client that has connected. Return its socket."""
        socket = self._by_sid[sid] = self._by_connection[eio_sid] = Socket(sid, eio_sid)
        return socket

    def joined(self) -> list[Socket]:
        """Return the sockets that are bound to a session."""
        return list(self._by_session.values())

    def bind(self, socket: Socket, user: str, session: str) -> None:
        """Bind a socket to a session. A socket that was bound to it before no longer is."""
        self._unbind(socket)
        if (old := self._by_session.get(session)) is not None:
            self._leave(session, old)
        socket.user, socket.session, socket.templates = user, session, None
        self._by_session[session] = socket

    def release(self, socket: Socket) -> None:
        """Unbind a socket from its session."""
        self._unbind(socket)
        socket.user = socket.session = None

    def remove(self, sid: str) -> Socket | None:
        """Remove the socket of a client that is gone. Return it, ``None`` if there is none."""
        socket = self._by_sid.pop(sid, None)
        if socket is not None:
            socket.gone = True
            if self._by_connection.get(socket.eio_sid) is socket:
                del self._by_connection[socket.eio_sid]
            self._unbind(socket)
        return socket

    def _unbind(self, socket: Socket) -> None:
        session = socket.session
        if session is None or self._by_session.get(session) is not socket:
            return
        del self._by_session[session]
        self._leave(session, socket)

    def _leave(self, session: str, socket: Socket) -> None:
        self._left[session] = (socket.positions, socket.seq)
        self._left.move_to_end(session)
        if len(self._left) > LEFT_MAX:
            self._left.popitem(last=False)

    def relays_received(self, session: str, seq: int) -> dict[str, int] | None:
        """Return sending session → number of the last relay that the client of ``session`` had received with ``seq``.

        ``None`` if that was not written here, or is not known any more.
        """
        known = [self._left[session]] if session in self._left else []
        if (socket := self._by_session.get(session)) is not None:
            known.append((socket.positions, socket.seq))
        for positions, written in reversed(known):
            if (received := positions.at(seq, written)) is not None:
                return received
        return None
