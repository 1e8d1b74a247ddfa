"""How many connections there are from one address, and whether one more may begin."""

import ipaddress
import json
from collections import Counter
from collections.abc import Callable

from aiohttp import web

from services.gateway.limits.unjoined_connections import UnjoinedConnections
from shared.errors import RateLimited
from shared.observability.limit_hits import LimitHits

RETRY_AFTER_MS = 5000
HOPS_MAX = 16
"""Addresses of ``X-Forwarded-For`` that are looked at, from the right."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ConnectionLimits:
    """Counts connections by address. ``limits``: per address, not joined, and per user; ``None``: none.

    ``close``: ends a connection that makes room for another.
    """

    def __init__(
        self,
        trusted: tuple[str, ...],
        limits: tuple[int, int, int] | None,
        close: Callable[[str], None],
        hits: LimitHits,
    ) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)
        self._limits = limits
        self._close = close
        self._unjoined = UnjoinedConnections()
        self._vouched: dict[str, str] = {}
        """Connection → the user whose token it has shown, until it has joined; so many a user."""
        self._vouchers: Counter[str] = Counter()
        self._hits = hits
        self._counts: Counter[str] = Counter()
        self._addresses: dict[str, str] = {}
        self._bare: Counter[str] = Counter()
        """Connections of the network, whatever goes through them."""

    def check(self, request: web.Request) -> None:
        """Whether a connection may begin by this request. Raises HTTP 429, the error as its body."""
        if self._limits is None:
            return
        per_address, unjoined_max, _ = self._limits
        address = key_of(request, self._trusted)
        if self._counts[address] >= per_address:
            self._refuse("connections_per_address")
        if len(self._unjoined) >= unjoined_max and self._unjoined.makes_room(address) is None:
            self._refuse("unjoined")

    def make_room(self, request: web.Request) -> None:
        """Let a connection begin: if too many have not joined, the oldest of the busiest other address is closed.

        Raises like :meth:`check`.
        """
        self.check(request)
        if self._limits is None or len(self._unjoined) < self._limits[1]:
            return
        oldest = self._unjoined.makes_room(key_of(request, self._trusted))
        assert oldest is not None, "check() has looked"
        self._hits.hit("unjoined")
        self._unjoined.discard(oldest)
        self._close(oldest)

    @property
    def crowded(self) -> bool:
        """True if half as many as may be have not joined."""
        return self._limits is not None and 2 * len(self._unjoined) >= self._limits[1]

    def vouched(self, eio_sid: str, user: str) -> None:
        """A connection has shown a good token of ``user``: it does not count as one that has not joined."""
        if self._limits is None or eio_sid in self._vouched or self._vouchers[user] >= self._limits[2]:
            return
        self._vouched[eio_sid] = user
        self._vouchers[user] += 1
        self._unjoined.discard(eio_sid)

    def joining(self, eio_sid: str) -> None:
        """Its join is in hand, or it has joined: it does not count as one that has not."""
        self._unjoined.discard(eio_sid)

    def not_joined(self, eio_sid: str) -> None:
        """Nothing came of its join."""
        if eio_sid in self._addresses and eio_sid not in self._vouched:
            self._unjoined.add(eio_sid, self._addresses[eio_sid])

    def _refuse(self, limit: str) -> None:
        self._hits.hit(limit)
        wire = RateLimited(retry_after_ms=RETRY_AFTER_MS).to_wire()
        raise web.HTTPTooManyRequests(
            text=json.dumps(wire),
            content_type="application/json",
            headers={"Retry-After": str(RETRY_AFTER_MS // 1000)},
        )

    def admit(self, remote: str, factor: int) -> bool:
        """Whether one more connection of the network may begin, of ``factor`` times as many as may be open in it.

        If so, it is counted; :meth:`leave` when it is over. Those of a proxy are the proxy's to count.
        """
        if self._limits is None or (bare := self._bare_key(remote)) is None:
            return True
        if self._bare[bare] >= self._limits[0] * factor:
            self._hits.hit("sockets_per_address")
            return False
        self._bare[bare] += 1
        return True

    def leave(self, remote: str) -> None:
        """A connection of the network that was admitted is over."""
        if self._limits is not None and (bare := self._bare_key(remote)) is not None:
            self._bare[bare] -= 1
            if not self._bare[bare]:
                del self._bare[bare]

    def _bare_key(self, remote: str) -> str | None:
        """What stands for an address; ``None`` for a proxy's."""
        address = _read(remote)
        if address is not None and any(address in network for network in self._trusted):
            return None
        return key(remote, "", ())

    def opened(self, eio_sid: str, request: web.Request) -> None:
        """A connection has begun."""
        if self._limits is not None:
            key = self._addresses[eio_sid] = key_of(request, self._trusted)
            self._counts[key] += 1
            self._unjoined.add(eio_sid, key)

    def closed(self, eio_sid: str) -> None:
        """It is over."""
        key = self._addresses.pop(eio_sid, None)
        self._unjoined.discard(eio_sid)
        if (user := self._vouched.pop(eio_sid, None)) is not None:
            self._vouchers[user] -= 1
            if not self._vouchers[user]:
                del self._vouchers[user]
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


def key_of(request: web.Request, trusted: tuple[_Network, ...]) -> str:
    """What stands for the client's address: itself, or its /64."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", ())) if trusted else ""
    return key(request.remote or "", forwarded, trusted)


def key(remote: str, forwarded: str, trusted: tuple[_Network, ...]) -> str:
    """The right-most address of ``forwarded`` that is not trusted, if ``remote`` is; else ``remote``."""
    address = _read(remote)
    if address is None:
        return remote
    for hop in reversed(forwarded.split(",")[-HOPS_MAX:]):
        if not any(address in network for network in trusted):
            break
        if (before := _read(hop.strip())) is None:
            break  # whoever wrote this is the last that is known
        address = before
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _read(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
