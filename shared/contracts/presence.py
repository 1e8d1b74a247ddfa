"""Presence: requests to it, and the record of a user's sessions, which it alone writes and call control reads."""

from typing import Any

from shared.contracts.rpc import Request
from shared.contracts.wire import DeviceId, Millis, Reason, UserId, Wire

LEASE_SECONDS = 6.0
"""A gateway that has not renewed its lease for this long counts as dead."""
RENEW_SECONDS = 2.0
"""How often a gateway renews it."""


class Session(Wire):
    """One device of a user, as long as it is joined or may be resumed.

    ``gateway`` and ``socket`` say where it is, or was last. ``lost_at``: since when its transport is gone; the session
    is in its grace then. ``spent``: tokens of before, from the one by which it was resumed last on; good for a client
    that was gone before it heard of a later one. ``alternates``: tokens of other answers to joins of this very socket,
    as good as ``resume_token``: the gateway may have taken any of them.

    Tokens are stored as ``s1:`` and the SHA-256 in hex; a value without ``s1:`` is a clear token of an older release.
    """

    session: str
    gateway: str
    socket: str
    device: DeviceId | None = None
    since: Millis
    resume_token: str
    spent: tuple[str, ...] = ()
    alternates: tuple[str, ...] = ()
    lost_at: Millis | None = None


class Sessions(Wire):
    """Value of ``user.<user>`` in bucket ``sessions``: never empty, the key is deleted instead."""

    user: UserId
    sessions: tuple[Session, ...]


class CountRequest(Request):
    """``rpc.presence.count``: how many users have a session."""


class CountReply(Wire):
    """``users``: those with a session, also one in its grace; some who left seconds ago are still in it."""

    users: int


class JoinRequest(Request):
    """``rpc.presence.join``: ``user`` joins on ``socket`` of ``gateway``.

    ``admitted``: True if presence has counted this join already, and the gateway asks again under the same request id.
    """

    user: UserId
    gateway: str
    socket: str
    device: DeviceId | None = None
    resume_session: str | None = None
    resume_token: str | None = None
    admitted: bool = False


class JoinsRequest(JoinRequest):
    """The same, for several who join at one gateway in one moment. ``also``: the others, none of whom resumes.

    An answer that says nothing of them does not mean that they have not joined: each is to be asked for alone then.
    ``outcomes``: True if the gateway reads :class:`shared.errors.FirstRefused`.
    """

    also: tuple[JoinRequest, ...] | None = None
    outcomes: bool = False


class JoinReply(Wire):
    """The session the socket now speaks for. ``resumed``: it is the one that ``resume`` named.

    ``continued``: the session was there before, at another socket. ``lost_at``: since when that one was gone, where it
    was known to be. ``busy``: a call holds the user, so the gateway tells call control (``rpc.calls.attached``) that
    the session is here.
    """

    session: str
    resume_token: str
    device: DeviceId | None = None
    since: Millis
    resumed: bool
    continued: bool = False
    lost_at: Millis | None = None
    busy: bool


class AlsoJoined(Wire):
    """What became of one of the others: ``reply``, or ``error`` as in :class:`shared.contracts.rpc.Reply`."""

    reply: JoinReply | None = None
    error: dict[str, Any] | None = None


class JoinsReply(JoinReply):
    """``also``: what became of the others, in their order."""

    also: tuple[AlsoJoined, ...] | None = None


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


class LostRequest(Request):
    """``rpc.presence.lost``: the transport of ``socket`` broke; its session begins its grace.

    ``socket`` guards against a message that comes after the session moved on. ``session``: ``None`` if the gateway
    never heard which one it is. ``unheard``: the client may not know of its resume token.
    """

    user: UserId
    session: str | None = None
    gateway: str
    socket: str
    unheard: bool = False


class ReassertRequest(Request):
    """``rpc.presence.reassert``: a session that presence may have given up, or forgotten, is at this socket.

    ``resume_token``: the clear token, which presence stores hashed.
    """

    user: UserId
    session: str
    gateway: str
    socket: str
    device: DeviceId | None = None
    resume_token: str


class ReassertReply(Wire):
    """``moved``: another socket speaks for the session by now."""

    moved: bool


class RenewRequest(Request):
    """``rpc.presence.renew``: the gateway lives; every :data:`RENEW_SECONDS`. ``leaving``: it says goodbye."""

    gateway: str
    leaving: bool = False


class RenewReply(Wire):
    """``known``: presence knew of the gateway. If not, it has given up or forgotten its sessions: reassert them.

    ``since``: when the lease began (ms), which tells one lease from the next also if the answer to the first renewal
    got lost. ``None`` from a presence that does not know it, and for ``leaving``.
    """

    known: bool
    since: Millis | None = None


class Lease(Wire):
    """Value of ``gateway.<gateway>`` in bucket ``sessions``: the gateway counts as alive, or is ``leaving``.

    ``since``: when it was granted. No two leases of one gateway begin at the same time.
    """

    since: Millis
    leaving: bool = False


class StatusRequest(Request):
    """``rpc.presence.status``; answered with :class:`shared.contracts.client.Status`. ``asker``: who wants to know."""

    user: UserId
    asker: UserId
