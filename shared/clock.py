"""Read the time, in the units that the wire uses."""

import time


def now_ms() -> int:
    """Return milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


SEQ_STEP = 16
"""Two ``seq`` of one process are at least this far apart: room for what a gateway puts in between."""


def now_seq() -> int:
    """Return the ``seq`` of now: microseconds since the epoch."""
    return time.time_ns() // 1000


class SeqClock:
    """Mints ``seq``: microseconds since the epoch, made strictly growing within this process.

    No counter is stored anywhere: hosts are NTP-synced, and moving a call to another instance takes longer than
    their skew.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """Return the next ``seq``, greater than all before it."""
        self._last = max(self._last + SEQ_STEP, now_seq())
        return self._last
