"""Presence: requests to it, and the record of a user's sessions, which it alone writes and call control reads."""

from shared.contracts.rpc import Request
from shared.contracts.wire import DeviceId, Millis, Reason, UserId, Wire


class Session(Wire):
    """One device of a user, as long as it is joined. ``gateway`` and ``socket`` say where it is at present."""

    session: str
    gateway: str
    socket: str
    device: DeviceId | None = None
    since: Millis
    resume_token: str


class Sessions(Wire):
    """Value of ``user.<user>`` in bucket ``sessions``: never empty, the key is deleted instead."""

    user: UserId
    sessions: tuple[Session, ...]


class JoinRequest(Request):
    """``rpc.presence.join``: ``user`` joins on ``socket`` of ``gateway``."""

    user: UserId
    gateway: str
    socket: str
    device: DeviceId | None = None
    resume_session: str | None = None
    resume_token: str | None = None


class JoinReply(Wire):
    """The session the socket now speaks for. ``resumed``: it is the one that ``resume`` named.

    ``busy``: a call holds the user, so the gateway tells call control (``rpc.calls.attached``) that the session is
    here, after it has answered ``user:joined``.
    """

    session: str
    resume_token: str
    resumed: bool
    busy: bool


class LeaveRequest(Request):
    """``rpc.presence.leave``. ``socket`` guards against a leave that comes after the session moved on.

    ``reason`` is what a peer in a call is told: ``hangup`` for a client that left, ``connection_lost`` for one
    whose transport broke.
    """

    user: UserId
    session: str
    gateway: str
    socket: str
    reason: Reason


class StatusRequest(Request):
    """``rpc.presence.status``; answered with :class:`shared.contracts.client.Status`."""

    user: UserId
