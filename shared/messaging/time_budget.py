"""Compute how long the requester still waits, and what share of that a service may wait for others.

Requests carry the time at which their asker stops waiting, twice: as a time, which tells a request that lay somewhere
from one that was just sent, and as milliseconds left when it was sent, which hold whatever the asker's clock says. The
server that reads it makes one time of both, by its own clock; everything it does for the request goes by that.
"""

from shared.clock import now_ms

INNER = 0.4
"""Of what its asker still waits, what a service may wait for another; the rest is for doing it itself and to answer."""


def due(expires_at: int, left_ms: int) -> int:
    """Return the time until which a request that is read now is waited for, by this host's clock (ms, 0: for ever).

    A clock of the asker that is fast counts for nothing, because ``left_ms`` is no longer than what is really left; one
    that is slow makes the time shorter. So late is never taken for in time.
    """
    if not (expires_at and left_ms):
        return expires_at
    return min(expires_at, now_ms() + left_ms)


def is_over(expires_at: int) -> bool:
    """Return whether the asker has stopped waiting. ``expires_at``: see :func:`due`."""
    return bool(expires_at) and now_ms() > expires_at


def share(expires_at: int, most: float) -> float:
    """Return the seconds that may be spent on waiting for others. ``expires_at``: when the asker stops waiting.

    ``most``: what is waited where nothing hurries.
    """
    if not expires_at:
        return most
    return min(most, INNER * max(0, expires_at - now_ms()) / 1000)
