"""Time, in the units that the wire uses."""

import time


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


class SeqClock:
    """Mints ``seq``: microseconds since the epoch, made strictly growing within this process.

    No counter is stored anywhere: hosts are NTP-synced, and moving a call to another instance takes longer than
    their skew.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """The next ``seq``, greater than all before it."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last
