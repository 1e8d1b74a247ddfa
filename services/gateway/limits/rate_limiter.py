"""Limit the rate of events per socket and per user, by class of event.

Relays on the fast path and on the slow path count together.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from services.gateway.limits.settings import LimitSettings
from services.gateway.protocol.event_class import EventClass
from shared.errors import RateLimited
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import ByteRate, Rate, milliseconds

CALLS_COUNTED = 64
"""Calls of a user whose candidates are counted; the oldest is discarded."""


class TooManyCandidates(RateLimited):
    """Raised if a user has sent too many candidates in a call. A retry fails, too."""

    retryable = False


class UserUsage:
    """Holds what a user has sent from all sockets of this gateway."""

    __slots__ = ("allowed_at", "bytes_full_at", "candidates", "name", "sockets")

    def __init__(self, name: str) -> None:
        self.name = name
        self.allowed_at = [0.0] * len(EventClass)
        self.bytes_full_at = 0.0
        """Time at which the byte budget of the user is full again (monotonic seconds)."""
        self.candidates: dict[str, int] = {}
        self.sockets = 0


class SocketLimiter:
    """Limits what a socket sends. ``user``: the usage of its user, once it has joined."""

    __slots__ = ("_allowed_at", "_rates", "user")

    def __init__(self, rates: "RateLimiter") -> None:
        self._rates = rates
        self._allowed_at = [0.0] * len(EventClass)
        self.user: UserUsage | None = None

    def take(self, kind: int) -> bool:
        """Count an event. Return False if it is over a rate; it is not counted then."""
        now, own, user, rates = time.monotonic(), self._allowed_at, self.user, self._rates
        mine = own[kind]
        if mine > now:
            return False
        if user is not None:
            theirs = user.allowed_at[kind]
            if theirs > now:
                return False
            full = now - rates.user_slack[kind]
            user.allowed_at[kind] = (theirs if theirs > full else full) + rates.user_interval[kind]
        full = now - rates.slack[kind]
        own[kind] = (mine if mine > full else full) + rates.interval[kind]
        return True

    def retry_after_ms(self, kind: int) -> int:
        """Return the milliseconds until the next event of a class is allowed."""
        theirs = self.user.allowed_at[kind] if self.user is not None else 0.0
        return milliseconds(max(self._allowed_at[kind], theirs) - time.monotonic())

    def charge_bytes(self, size: int, now: float) -> None:
        """Charge a relay of ``size`` bytes to the budget of its user. ``now``: monotonic seconds.

        Raises :class:`RateLimited` if the budget is spent; nothing is charged then.
        """
        if (user := self.user) is None:
            return
        rate = self._rates.user_bytes
        full_at = rate.charge(user.bytes_full_at, now, size)
        if (wait := rate.wait(full_at, now)) > 0:
            self._rates.hits.hit("rate_user_kb")
            raise RateLimited(f"Too much at once: {rate.size // 1024} KiB", retry_after_ms=milliseconds(wait))
        user.bytes_full_at = full_at

    def count_candidates(self, call: str, payload: bytes) -> None:
        """Count the candidates of a relay, compact JSON; each ``null`` counts, too. Raises :class:`RateLimited`."""
        if (user := self.user) is None:
            return
        counts = user.candidates
        more = payload.count(b"{") - 1
        if b"null" in payload:  # alone, or as items of the batch; candidates have theirs behind a colon
            more = max(1, more + payload.count(b"[null") + payload.count(b",null"))
        count = counts.get(call, 0) + more
        if count > self._rates.candidates_max:
            self._rates.hits.hit("candidates_per_call")
            raise TooManyCandidates(f"Too many candidates in a call: {self._rates.candidates_max} at most")
        if call not in counts and len(counts) >= CALLS_COUNTED:
            del counts[next(iter(counts))]
        counts[call] = count


class RateLimiter:
    """Holds the rates of a gateway, and the usage of its users."""

    def __init__(
        self, settings: LimitSettings, hits: LimitHits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        by_kind: dict[EventClass, Rate] = {
            EventClass.OTHERS: settings.rate_others,
            EventClass.CANDIDATES: settings.rate_candidates,
            EventClass.OFFERS: settings.rate_offers,
            EventClass.INITIATES: settings.rate_initiates,
            EventClass.STATUS: settings.rate_status,
        }
        rates = [by_kind[kind] for kind in EventClass]
        joint = [Rate(rate.events * settings.rate_user_factor, rate.seconds) for rate in rates]
        self.interval, self.slack = [rate.interval for rate in rates], [rate.slack for rate in rates]
        self.user_interval, self.user_slack = (
            [rate.interval for rate in joint],
            [rate.slack for rate in joint],
        )
        self.candidates_max = settings.candidates_per_call
        self.user_bytes = ByteRate.of_kib(settings.rate_user_kb)
        self.hits = hits
        self._on = settings.rate_limit
        self._sockets_max = settings.connections_per_user
        self._clock = clock
        self._keep_seconds = max(settings.rate_user_kb.seconds, *(rate.seconds for rate in rates))
        self._users: dict[str, UserUsage] = {}
        self._away: OrderedDict[str, float] = OrderedDict()
        """Users without a socket → until when their usage counts."""

    def socket(self) -> SocketLimiter | None:
        """Return the limiter of a new socket; ``None`` if there are no limits."""
        return SocketLimiter(self) if self._on else None

    def joined(self, socket: SocketLimiter | None, name: str) -> None:
        """Count a socket as one of a user. Raises :class:`RateLimited` if the user has too many.

        Call it before the join is requested, because many could join at once; and :meth:`left` if the join fails.
        """
        if socket is None or (socket.user is not None and socket.user.name == name):
            return
        user = self._users.get(name)
        if user is not None and user.sockets >= self._sockets_max:
            self.hits.hit("connections_per_user")
            raise RateLimited(
                f"Too many connections: a user may have {self._sockets_max}", retry_after_ms=5000
            )
        self.left(socket)
        self._forget()
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = UserUsage(name)
        self._away.pop(name, None)
        user.sockets += 1
        socket.user = user

    def left(self, socket: SocketLimiter | None) -> None:
        """Stop counting a socket as one of its user. The usage of the user counts for some time more."""
        if socket is None or (user := socket.user) is None:
            return
        socket.user = None
        user.sockets -= 1
        if not user.sockets:
            self._away[user.name] = self._clock() + self._keep_seconds

    def _forget(self) -> None:
        now = self._clock()
        while self._away:
            name, until = next(iter(self._away.items()))
            if until > now:
                return
            del self._away[name], self._users[name]
