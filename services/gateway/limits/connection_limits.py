"""Limit connections per address, and connections that have not joined."""

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
"""Addresses of ``X-Forwarded-For`` that are read, from the right."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ConnectionLimits:
    """Counts connections by address. ``limits``: per address, not joined, and per user; ``None`` for no limits.

    ``trusted``: networks of proxies. ``close``: closes a connection in favour of a new one.
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
        """Connection → user of the token in its handshake; within the limit per user."""
        self._vouched_per_user: Counter[str] = Counter()
        self._hits = hits
        self._counts: Counter[str] = Counter()
        self._addresses: dict[str, str] = {}
        self._tcp: Counter[str] = Counter()
        """Address → TCP connections."""

    def check(self, request: web.Request) -> None:
        """Check whether a request may open a connection. Raises HTTP 429, with the error as its body."""
        if self._limits is None:
            return
        per_address, unjoined_max, _ = self._limits
        address = key_of(request, self._trusted)
        if self._counts[address] >= per_address:
            self._refuse("connections_per_address")
        if len(self._unjoined) >= unjoined_max and self._unjoined.closable_for(address) is None:
            self._refuse("unjoined")

    def make_room(self, request: web.Request) -> None:
        """Admit a connection. If too many have not joined, close the oldest of the address that has most of them.

        Raises like :meth:`check`.
        """
        self.check(request)
        if self._limits is None or len(self._unjoined) < self._limits[1]:
            return
        oldest = self._unjoined.closable_for(key_of(request, self._trusted))
        assert oldest is not None, "check() refuses it"
        self._hits.hit("unjoined")
        self._unjoined.discard(oldest)
        self._close(oldest)

    @property
    def crowded(self) -> bool:
        """True if the connections that have not joined are half as many as allowed, or more."""
        return self._limits is not None and 2 * len(self._unjoined) >= self._limits[1]

    def vouched(self, eio_sid: str, user: str) -> None:
        """Do not count a connection with a valid token of ``user`` as one that has not joined."""
        if (
            self._limits is None
            or eio_sid in self._vouched
            or self._vouched_per_user[user] >= self._limits[2]
        ):
            return
        self._vouched[eio_sid] = user
        self._vouched_per_user[user] += 1
        self._unjoined.discard(eio_sid)

    def joining(self, eio_sid: str) -> None:
        """Stop counting a connection as one that has not joined, because its join is being handled."""
        self._unjoined.discard(eio_sid)

    def not_joined(self, eio_sid: str) -> None:
        """Count a connection again whose join has failed."""
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
        """Return True if a TCP connection may open: an address may have ``factor`` times its limit of connections.

        It is then counted until :meth:`leave`. Connections of a trusted proxy are not counted.
        """
        if self._limits is None or (address := self._tcp_key(remote)) is None:
            return True
        if self._tcp[address] >= self._limits[0] * factor:
            self._hits.hit("sockets_per_address")
            return False
        self._tcp[address] += 1
        return True

    def leave(self, remote: str) -> None:
        """Stop counting a TCP connection that has closed."""
        if self._limits is not None and (address := self._tcp_key(remote)) is not None:
            self._tcp[address] -= 1
            if not self._tcp[address]:
                del self._tcp[address]

    def _tcp_key(self, remote: str) -> str | None:
        """Return the key of an address; ``None`` for that of a proxy."""
        address = _read(remote)
        if address is not None and any(address in network for network in self._trusted):
            return None
        return key(remote, "", ())

    def opened(self, eio_sid: str, request: web.Request) -> None:
        """Count a connection that has opened."""
        if self._limits is not None:
            key = self._addresses[eio_sid] = key_of(request, self._trusted)
            self._counts[key] += 1
            self._unjoined.add(eio_sid, key)

    def closed(self, eio_sid: str) -> None:
        """Stop counting a connection that has closed."""
        key = self._addresses.pop(eio_sid, None)
        self._unjoined.discard(eio_sid)
        if (user := self._vouched.pop(eio_sid, None)) is not None:
            self._vouched_per_user[user] -= 1
            if not self._vouched_per_user[user]:
                del self._vouched_per_user[user]
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


def key_of(request: web.Request, trusted: tuple[_Network, ...]) -> str:
    """Return the key of the client's address: the address itself, or the /64 of an IPv6 address."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", ())) if trusted else ""
    return key(request.remote or "", forwarded, trusted)


def key(remote: str, forwarded: str, trusted: tuple[_Network, ...]) -> str:
    """Return the key of ``remote``; if that is trusted, of the right-most untrusted address in ``forwarded``."""
    address = _read(remote)
    if address is None:
        return remote
    for hop in reversed(forwarded.split(",")[-HOPS_MAX:]):
        if not any(address in network for network in trusted):
            break
        if (before := _read(hop.strip())) is None:
            break  # the address before it cannot be read
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
