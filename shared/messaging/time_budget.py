"""Compute how long the requester still waits, and what share of that a service may wait for others.

Requests carry the time at which the requester stops waiting, in two forms. The absolute time distinguishes a request
that was delayed from one that was just sent. The milliseconds left at sending do not depend on the requester's clock.
The server computes one time of both, by its own clock, and uses it for everything it does for the request.
"""

from shared.clock import now_ms

INNER = 0.4
"""The share of the requester's remaining time that a service may wait for others; it needs the rest to answer."""


def due(expires_at: int, left_ms: int) -> int:
    """Return when the requester of a request read now stops waiting, by this host's clock (ms, 0: never).

    A fast clock of the requester has no effect, because ``left_ms`` is no longer than the time really left. A slow
    one makes the time shorter. So a late request never counts as one in time.
    """
    if not (expires_at and left_ms):
        return expires_at
    return min(expires_at, now_ms() + left_ms)


def is_over(expires_at: int) -> bool:
    """Return True if the requester has stopped waiting. ``expires_at``: see :func:`due`."""
    return bool(expires_at) and now_ms() > expires_at


def share(expires_at: int, most: float) -> float:
    """Return the seconds that may be spent on waiting for others. ``expires_at``: see :func:`due`.

    ``most``: the seconds without such a time.
    """
    if not expires_at:
        return most
    return min(most, INNER * max(0, expires_at - now_ms()) / 1000)
