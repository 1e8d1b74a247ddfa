"""Cache the calls whose relays go through this instance, and the routes of these relays. No I/O, no clock."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from services.callcore.relay.sequence_tracker import Key
from services.callcore.state import machine
from services.callcore.state.model import Address, Call, CallInput, InputKind, State
from shared.errors import SignallingError
from shared.ids import decode, encode
from shared.messaging.mailbox import MailboxMessage

CALLS_MAX = 50_000
"""Cached calls; the least recently updated are dropped first, and read again when they are needed."""
ENDED_MAX = 10_000
"""Ended calls that are kept, so that an older state that arrives late does not revive them."""
FRESH_SECONDS = 5.0
"""Seconds that a cached call is trusted; then it is read once more, if it can be read."""


@dataclass(slots=True)
class CachedCall:
    """The cached state of one call. ``fresh_until``: in seconds of the monotonic clock."""

    call: Call
    revision: int
    fresh_until: float
    early: list[MailboxMessage] = field(default_factory=list)
    """Relays sent to the ringing devices, for devices that begin to ring later."""
    early_bytes: int = 0
    bytes_full_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Time at which the byte buckets of callee and caller are full again (monotonic). Kept as the state changes."""
    read_failed: bool = False
    """True if the call could not be read when it was no longer fresh."""
    prefixes: list[str] = field(default_factory=list)
    """The subject prefixes that have a route to this call."""


class Route(NamedTuple):
    """The targets of the relays of one session for one call, valid while the cached state is."""

    cached: CachedCall
    key: Key
    targets: tuple[Address, ...]


class RouteCache:
    """The cached calls of an instance, and their routes.

    ``calls_max``, ``ended_max``, ``fresh_seconds``: see :data:`CALLS_MAX`, :data:`ENDED_MAX`, :data:`FRESH_SECONDS`.
    """

    def __init__(
        self,
        *,
        calls_max: int = CALLS_MAX,
        ended_max: int = ENDED_MAX,
        fresh_seconds: float = FRESH_SECONDS,
    ) -> None:
        self._calls_max = calls_max
        self._ended_max = ended_max
        self._fresh_seconds = fresh_seconds
        self._calls: OrderedDict[str, CachedCall] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self.routes: dict[str, Route] = {}
        """Subject prefix, everything but the kind → route. Of accepted calls only. Read it, do not write."""

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, call: str) -> CachedCall | None:
        """Return a cached call; ``None`` for one that is unknown or has ended."""
        return self._calls.get(call)

    def update(self, call: Call, revision: int, now: float, early: list[MailboxMessage]) -> CachedCall | None:
        """Cache a state, unless a later one is cached; drop a call that has ended. ``now``: monotonic.

        ``early``: the relays sent while it rings. Returns the latest state, ``None`` for a call that has ended.
        """
        if call.call in self._ended:
            return None
        known = self._calls.get(call.call)
        if known is not None:
            if known.revision > revision:
                return known
            self._drop_routes(known)
        if call.state is State.ENDED:
            self._calls.pop(call.call, None)
            self._ended[call.call] = None
            if len(self._ended) > self._ended_max:
                self._ended.popitem(last=False)
            return None
        cached = CachedCall(call, revision, now + self._fresh_seconds)
        if known is not None:
            cached.bytes_full_at = known.bytes_full_at
        if call.state is State.RINGING:
            cached.early = early
            cached.early_bytes = sum(len(message.payload) for message in early)
        self._calls[call.call] = cached
        self._calls.move_to_end(call.call)
        while len(self._calls) > self._calls_max:
            self._drop_routes(self._calls.popitem(last=False)[1])
        return cached

    def extend(self, cached: CachedCall, now: float) -> None:
        """Trust a cached call for another :data:`FRESH_SECONDS`. ``now``: monotonic."""
        cached.fresh_until = now + self._fresh_seconds

    def open_route(self, prefix: str, route: Route) -> Route:
        """Add the route of relays whose subject begins with ``prefix``, and return it.

        Only of accepted calls, where relays of all kinds have the same targets and no early media is kept.
        """
        self.routes[prefix] = route
        route.cached.prefixes.append(prefix)
        return route

    def close_routes(self, call: str) -> None:
        """Remove the routes of a call, so that its relays take the slow path until routes are opened again."""
        cached = self._calls.get(call)
        if cached is not None:
            self._drop_routes(cached)

    def _drop_routes(self, cached: CachedCall) -> None:
        for prefix in cached.prefixes:
            self.routes.pop(prefix, None)
        cached.prefixes.clear()


def targets_of(call: Call, user: str, session: str, to: str) -> tuple[Address, ...]:
    """Return the targets of a session's relays by the table; empty if the table refuses or the peer is another user.

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
