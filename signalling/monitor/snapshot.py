"""Describe a snapshot of a running system; no I/O."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Instance:
    """Describes one process. ``requests``, ``refused``, ``errors``: since its start; ``rate``: requests a second now.

    ``ms``: what a request took on average just now, ``None`` without any. ``sockets``: at a gateway.
    """

    service: str
    name: str
    version: str
    uptime: float
    sockets: int | None = None
    requests: int | None = None
    refused: int | None = None
    errors: int | None = None
    rate: float | None = None
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class LiveCall:
    """Describes a live call. ``age``: seconds since it was placed; ``talking``: since it was accepted."""

    call: str
    state: str
    caller: str
    callee: str
    call_type: str
    age: float
    talking: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """Describes a stream or bucket. ``size_max``: bytes, ``None`` for no limit. ``behind``: replicas that lag."""

    name: str
    messages: int
    size: int
    size_max: int | None
    replicas: int
    behind: int


@dataclass(frozen=True, slots=True)
class Nats:
    """Describes the NATS servers. ``slow_consumers``: connections closed so far; ``pending``: bytes by client."""

    servers: int
    connections: int
    slow_consumers: int
    pending: int
    pending_for: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Describes one snapshot. ``rates``: messages a second by family. ``calls_left``: live calls not listed."""

    at: float
    instances: tuple[Instance, ...]
    users: int | None
    sockets: int
    calls: tuple[LiveCall, ...]
    calls_left: int
    rates: dict[str, float]
    nats: Nats
    streams: tuple[Stored, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON for programs."""
        return asdict(self)

    def by_state(self) -> dict[str, int]:
        """Return the number of listed calls by state."""
        counts: dict[str, int] = {}
        for call in self.calls:
            counts[call.state] = counts.get(call.state, 0) + 1
        return counts
