"""What an instance knows of calls whose relays go through it, and where those go. No I/O."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from services.callcore.relay.sequence_tracker import Key
from services.callcore.state import machine
from services.callcore.state.model import Address, Call, CallInput, InputKind, State
from shared.errors import SignallingError
from shared.ids import decode, encode
from shared.messaging.mailbox import MailboxMessage

LANES_MAX = 50_000
"""Calls that are known; those heard of longest ago are forgotten first, and read again when they are needed."""
ENDED_MAX = 10_000
"""Ended calls that are remembered, so that an older state that arrives late does not revive them."""
WARM_SECONDS = 5.0
"""How long a lane trusts what it knows; after that it reads the call once more, if it can be read."""


@dataclass(slots=True)
class CachedCall:
    """What is known of one call. ``warm_until``: in seconds of the monotonic clock."""

    call: Call
    revision: int
    warm_until: float
    early: list[MailboxMessage] = field(default_factory=list)
    early_bytes: int = 0
    bytes_full_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """When all bytes have come back that the callee, and the caller, may relay (monotonic). Kept as states change."""
    unread: bool = False
    """The call could not be read when it was time."""
    routes: list[str] = field(default_factory=list)
    """The subjects that are known to lead here, see :class:`RouteCache`."""

    def stay_warm(self, now: float) -> None:
        """Have it trusted a while longer. ``now``: monotonic."""
        self.warm_until = now + WARM_SECONDS


class Route(NamedTuple):
    """Where the relays of one session for one call go, as long as nothing about the call changes."""

    lane: CachedCall
    key: Key
    targets: tuple[Address, ...]


class RouteCache:
    """The lanes of an instance, by call."""

    def __init__(self) -> None:
        self._relay_router: OrderedDict[str, CachedCall] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._routes: dict[str, Route] = {}
        self.route = self._routes.get
        """The route of a relay whose subject begins so, everything but its kind; ``None`` unless it is plain."""

    def __len__(self) -> int:
        return len(self._relay_router)

    def get(self, call: str) -> CachedCall | None:
        """What is known of a call."""
        return self._relay_router.get(call)

    def learn(self, call: Call, revision: int, now: float, early: list[MailboxMessage]) -> CachedCall | None:
        """Remember a state, unless a later one is known; forget the call when it has ended. ``now``: monotonic.

        Returns the lane of the latest state, ``None`` for a call that has ended.
        """
        if call.call in self._ended:
            return None
        known = self._relay_router.get(call.call)
        if known is not None:
            if known.revision > revision:
                return known
            self._forget_routes(known)
        if call.state is State.ENDED:
            self._relay_router.pop(call.call, None)
            self._ended[call.call] = None
            if len(self._ended) > ENDED_MAX:
                self._ended.popitem(last=False)
            return None
        lane = CachedCall(call, revision, now + WARM_SECONDS)
        if known is not None:
            lane.bytes_full_at = known.bytes_full_at
        if call.state is State.RINGING:
            lane.early = early
            lane.early_bytes = sum(len(letter.payload) for letter in early)
        self._relay_router[call.call] = lane
        self._relay_router.move_to_end(call.call)
        while len(self._relay_router) > LANES_MAX:
            self._forget_routes(self._relay_router.popitem(last=False)[1])
        return lane

    def open(self, begin: str, route: Route) -> Route:
        """Have :attr:`route` know the way of the relays whose subject begins so.

        Only of accepted calls, where all kinds of relays go the same way, and nothing has to be kept of them.
        """
        self._routes[begin] = route
        route.lane.routes.append(begin)
        return route

    def close(self, call: str) -> None:
        """Have the relays of a call take the long way until their routes are opened again."""
        lane = self._relay_router.get(call)
        if lane is not None:
            self._forget_routes(lane)

    def _forget_routes(self, lane: CachedCall) -> None:
        for begin in lane.routes:
            self._routes.pop(begin, None)
        lane.routes.clear()


def targets_of(call: Call, user: str, session: str, to: str) -> tuple[Address, ...]:
    """Where the relays of a session go by the table; empty where the table refuses or the peer is another.

    ``user``, ``to``: subject tokens.
    """
    name = decode(user)
    if encode(call.peer_of(name)) != to:
        return ()
    event = CallInput(InputKind.CANDIDATE, "", name, Address(session=session, gateway=""))
    try:
        return machine.step(call, event, 0).relay_to
    except SignallingError:
        return ()
