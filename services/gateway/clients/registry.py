"""The sockets of this gateway, and which session each of them speaks for."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.clients.relay_positions import Positions
from services.gateway.limits.rate_limiter import SocketLimiter
from services.gateway.protocol.relay_template import RelayTemplates
from shared.contracts.client import Event

_INITIATED, _INCOMING, _ACCEPTED, _ENDED = 1, 2, 4, 8
_TURNS: dict[str, tuple[int, int]] = {
    Event.INITIATED: (_INITIATED, _INITIATED | _ACCEPTED | _ENDED),
    Event.INCOMING: (_INCOMING, _INCOMING | _ACCEPTED | _ENDED),
    Event.ACCEPTED: (_ACCEPTED, _ACCEPTED | _ENDED),
    Event.REJECTED: (_ENDED, _ENDED),
    Event.ENDED: (_ENDED, _ENDED),
}
"""A turn that a call takes → itself, and the turns after which it is not told any more: itself and later ones."""

CALLS_REMEMBERED = 16
HEARD_REMEMBERED = 64
LEFT_MAX = 8_192
"""Sessions whose sockets are gone, of which it is remembered what relays their clients have got."""


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
    replaced: str | None = None
    """A session that another socket took over before this one knew that it had it."""
    claims: str | None = None
    """The user that it is joining as: presence may have given it a session that nobody speaks for yet."""
    calls: dict[str, str] = field(default_factory=dict)
    """Peer → call, for relays that do not name the call."""
    acks_pending: int = 0
    heard: dict[str, int] = field(default_factory=dict)
    """Call → the turns that it took here, of the last calls."""
    positions: Positions = field(default_factory=Positions)
    """The relays that the client has got."""
    caught_up: bool = True
    """Whether it has got all that its session was sent, also before it came."""
    overtaken: int = 0
    """Turns of calls up to this ``seq`` are told again, and not to be heard again."""
    untold: bool = False
    """True if its call is still to be told to it: relays before that come again behind it, and are not written."""
    seq: int = 0
    """The ``seq`` of the last letter that the client has got."""
    templates: RelayTemplates | None = None
    """Of the relays that it sends; of this user and session."""
    rates: SocketLimiter | None = None
    """How often it may send what; ``None`` where there are no limits."""

    def remember_call(self, peer: str, call: str) -> None:
        """Remember the call with ``peer``, and forget the one asked for longest ago if there are too many."""
        while len(self.calls) >= CALLS_REMEMBERED:
            del self.calls[next(iter(self.calls))]
        self.calls[peer] = call

    def hears_first(self, event: str, call: str) -> bool:
        """Whether the client has heard neither this turn of a call before nor a later one; from now on it has."""
        turn, overtaken_by = _TURNS[event]
        heard = self.heard
        taken = heard.get(call)
        if taken is None:
            if len(heard) >= HEARD_REMEMBERED:
                del heard[next(iter(heard))]
            taken = 0
        elif taken & overtaken_by:
            return False
        heard[call] = taken | turn
        return True


Find = Callable[[str], Socket | None]


class Registry:
    """All sockets, by Socket.IO id, by connection and by session."""

    def __init__(self) -> None:
        self._by_sid: dict[str, Socket] = {}
        self._by_connection: dict[str, Socket] = {}
        self._by_session: dict[str, Socket] = {}
        self._left: OrderedDict[str, tuple[Positions, int]] = OrderedDict()
        """Session → what its client has got of relays on its last socket here, and the last ``seq`` written there."""
        # Asked for each frame: not even a method of ours in between.
        self.by_sid: Find = self._by_sid.get
        """The socket with this Socket.IO id."""
        self.by_connection: Find = self._by_connection.get
        """The socket on a connection."""
        self.by_session: Find = self._by_session.get
        """The socket that speaks for a session."""

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
        self._unbind(socket)
        if (old := self._by_session.get(session)) is not None:
            self._leave(session, old)
        socket.user, socket.session, socket.templates = user, session, None
        self._by_session[session] = socket

    def release(self, socket: Socket) -> None:
        """The socket speaks for no session any more."""
        self._unbind(socket)
        socket.user = socket.session = None

    def remove(self, sid: str) -> Socket | None:
        """The client is gone; the socket it was."""
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

    def heard_of(self, session: str, seq: int) -> dict[str, int] | None:
        """Return sending session → number of the last relay that the client of ``session`` had got when it got ``seq``.

        ``None`` if that was not written here, or is not known any more.
        """
        known = [self._left[session]] if session in self._left else []
        if (socket := self._by_session.get(session)) is not None:
            known.append((socket.positions, socket.seq))
        for positions, written in reversed(known):
            if (heard := positions.at(seq, written)) is not None:
                return heard
        return None

    def all(self) -> list[Socket]:
        """Every socket."""
        return list(self._by_sid.values())
