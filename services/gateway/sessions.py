"""The sockets of this gateway, and which session each of them speaks for."""

from dataclasses import dataclass, field

from services.gateway.rates import SocketRates
from services.gateway.short import Envelopes
from shared.contracts.client import Event

_ENDS = (Event.ENDED, Event.REJECTED)
_OVERTAKEN_BY: dict[str, tuple[str, ...]] = {
    Event.INITIATED: (Event.INITIATED, Event.ACCEPTED, *_ENDS),
    Event.INCOMING: (Event.INCOMING, Event.ACCEPTED, *_ENDS),
    Event.ACCEPTED: (Event.ACCEPTED, *_ENDS),
    **dict.fromkeys(_ENDS, _ENDS),
}
"""A turn that a call takes → turns after which it is not told any more: itself, and what comes after it."""

CALLS_REMEMBERED = 16
HEARD_REMEMBERED = 64


@dataclass(slots=True, eq=False)
class Socket:
    """One connected client. ``user`` and ``session`` are there once it has joined."""

    sid: str
    """Its Socket.IO id, which clients see."""
    eio_sid: str
    """The id of the connection below."""
    user: str | None = None
    session: str | None = None
    device: str | None = None
    token: str = ""
    """What resumes the session, as its client was told; presence may have forgotten it."""
    gone: bool = False
    claims: str | None = None
    """The user that it is joining as: presence may have given it a session that nobody speaks for yet."""
    calls: dict[str, str] = field(default_factory=dict)
    """Peer → call, for relays that do not name the call."""
    acks_pending: int = 0
    heard: dict[tuple[str, str], None] = field(default_factory=dict)
    """(event, call) of the last turns that calls took here."""
    relays_heard: dict[str, int] = field(default_factory=dict)
    """Sending session → number of the last relay of it that the client has got."""
    caught_up: bool = True
    """Whether it has got all that its session was sent, also before it came."""
    overtaken: int = 0
    """Turns of calls up to this ``seq`` are told again, and not to be heard again."""
    seq: int = 0
    """The ``seq`` of the last letter that the client has got."""
    envelopes: Envelopes | None = None
    """Of the relays that it sends; of this user and session."""
    rates: SocketRates | None = None
    """How often it may send what; ``None`` where there are no limits."""

    def remember_call(self, peer: str, call: str) -> None:
        """Remember the call with ``peer``, and forget the one asked for longest ago if there are too many."""
        while len(self.calls) >= CALLS_REMEMBERED:
            del self.calls[next(iter(self.calls))]
        self.calls[peer] = call

    def hears_first(self, event: str, call: str) -> bool:
        """Whether the client has heard neither this of this call before nor what comes after it; from now on it has."""
        if any((later, call) in self.heard for later in _OVERTAKEN_BY.get(event, (event,))):
            return False
        while len(self.heard) >= HEARD_REMEMBERED:
            del self.heard[next(iter(self.heard))]
        self.heard[event, call] = None
        return True


class Registry:
    """All sockets, by Socket.IO id, by connection and by session."""

    def __init__(self) -> None:
        self._by_sid: dict[str, Socket] = {}
        self._by_connection: dict[str, Socket] = {}
        self._by_session: dict[str, Socket] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    @property
    def sessions(self) -> int:
        """How many sessions are joined here."""
        return len(self._by_session)

    def add(self, sid: str, eio_sid: str) -> Socket:
        """A client has connected."""
        socket = self._by_sid[sid] = self._by_connection[eio_sid] = Socket(sid, eio_sid)
        return socket

    def joined(self) -> list[Socket]:
        """The sockets that speak for a session."""
        return list(self._by_session.values())

    def bind(self, socket: Socket, user: str, session: str) -> None:
        """The socket speaks for this session from now on; a socket that did so before no longer does."""
        if socket.session is not None and self._by_session.get(socket.session) is socket:
            del self._by_session[socket.session]
        socket.user, socket.session, socket.envelopes = user, session, None
        self._by_session[session] = socket

    def release(self, socket: Socket) -> None:
        """The socket speaks for no session any more."""
        if socket.session is not None and self._by_session.get(socket.session) is socket:
            del self._by_session[socket.session]
        socket.user = socket.session = None

    def remove(self, sid: str) -> Socket | None:
        """The client is gone; the socket it was."""
        socket = self._by_sid.pop(sid, None)
        if socket is not None:
            socket.gone = True
            if self._by_connection.get(socket.eio_sid) is socket:
                del self._by_connection[socket.eio_sid]
            if socket.session is not None and self._by_session.get(socket.session) is socket:
                del self._by_session[socket.session]
        return socket

    def by_sid(self, sid: str) -> Socket | None:
        """The socket with this Socket.IO id."""
        return self._by_sid.get(sid)

    def by_connection(self, eio_sid: str) -> Socket | None:
        """The socket on a connection."""
        return self._by_connection.get(eio_sid)

    def by_session(self, session: str) -> Socket | None:
        """The socket that speaks for a session."""
        return self._by_session.get(session)

    def all(self) -> list[Socket]:
        """Every socket."""
        return list(self._by_sid.values())
