"""Define the heartbeat by which instances of a service know of each other."""

from shared.contracts.wire import Millis, Wire


class Beat(Wire):
    """``live.<service>.<instance>``. ``leaving`` is the last one of an instance that stops.

    ``sockets``: how many clients are connected, at a gateway. ``full``: streams that refuse what
    the instance stores, for want of room.
    """

    version: str
    started_at: Millis
    leaving: bool = False
    sockets: int | None = None
    full: list[str] | None = None
