"""Group the limits of what clients may do."""

from dataclasses import dataclass

from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.limits.join_timeout import JoinTimeout
from services.gateway.limits.penalties import Penalties
from services.gateway.limits.rate_limiter import RateLimiter
from shared.observability.limit_hits import LimitHits


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Groups the limits of connections and events, and the penalties. ``hits``: counts each limit that is hit."""

    rates: RateLimiter
    connections: ConnectionLimits
    join_timeout: JoinTimeout
    penalties: Penalties
    hits: LimitHits
