"""Compute ``expiresInMs``, the time left to ring, from ``expiresAt`` when an event is written to a client.

A mailbox keeps events, and a polling client may fetch one late, so the value is never stored. Pure: no clock, no I/O.
"""

from shared.contracts.client import Event

RINGING = frozenset((Event.INCOMING, Event.INITIATED))
"""Events that carry ``expiresAt`` and ``expiresInMs``."""

_EXPIRES_AT = b'"expiresAt":'


def ms_left(expires_at: int, now: int) -> int:
    """Return the milliseconds until ``expires_at``, 0 if the time has passed. Both are milliseconds since the epoch."""
    return max(0, expires_at - now)


def with_ms_left(payload: bytes, now: int) -> bytes:
    """Return an event's JSON with ``expiresInMs`` behind its ``expiresAt``.

    The last ``expiresAt`` counts: ``metadata``, the client's own JSON, comes before it. ``seq`` follows.
    Return the payload unchanged if it has none.
    """
    start = payload.rfind(_EXPIRES_AT) + len(_EXPIRES_AT)
    if start < len(_EXPIRES_AT):
        return payload
    end = payload.index(b",", start)
    left = ms_left(int(payload[start:end]), now)
    return b'%b,"expiresInMs":%d%b' % (payload[:end], left, payload[end:])
