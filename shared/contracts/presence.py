"""Define the requests to presence, and the record of a user's sessions. Presence writes it, callcore reads it."""

from typing import Any

from shared.contracts.rpc import Request
from shared.contracts.wire import DeviceId, Millis, Reason, UserId, Wire

LEASE_SECONDS = 6.0
"""A gateway that has not renewed its lease for this long counts as dead."""
RENEW_SECONDS = 2.0
"""Seconds between two renewals of a lease."""


class Session(Wire):
    """One device of a user, as long as it is joined or may be resumed.

    ``gateway`` and ``socket``: where it is, or was last. ``lost_at``: when its transport broke; the session is then in
    its grace period. ``spent``: earlier tokens, from the one of its last resume on. They are valid for a client that
    disconnected before it received a later one. ``alternates``: tokens of other answers to joins of this very socket.
    They are as good as ``resume_token``, because the gateway may have used any of these answers.

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
    """``users``: how many have a session, grace periods included; users that left seconds ago may be counted."""

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
    """Batch the joins of one event-loop tick at one gateway. ``also``: the others, none with a resume.

    An answer without ``also`` does not mean that they have not joined: the gateway then asks for each alone.
    ``outcomes``: True if the gateway reads :class:`shared.errors.FirstRefused`.
    """

    also: tuple[JoinRequest, ...] | None = None
    outcomes: bool = False


class JoinReply(Wire):
    """The session the socket now speaks for. ``resumed``: it is the one that ``resume`` named.

    ``continued``: the session existed before, at another socket. ``lost_at``: when that socket was lost, if presence
    knew. ``busy``: the user is reserved for a call, so the gateway sends callcore ``rpc.calls.attached``.
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
    """The outcome of one other join of a batch: ``reply``, or ``error`` as in :class:`shared.contracts.rpc.Reply`."""

    reply: JoinReply | None = None
    error: dict[str, Any] | None = None


class JoinsReply(JoinReply):
    """The answer to a batch. ``also``: the outcomes of the other joins, in their order."""

    also: tuple[AlsoJoined, ...] | None = None


class LeaveRequest(Request):
    """``rpc.presence.leave``. ``socket`` guards against a leave that comes after the session moved on.

    ``reason`` is the one that a peer in a call receives: ``hangup`` for a client that left, ``connection_lost`` for one
    whose transport broke.
    """

    user: UserId
    session: str
    gateway: str
    socket: str
    reason: Reason


class LostRequest(Request):
    """``rpc.presence.lost``: the transport of ``socket`` broke; its session's grace period begins.

    ``socket`` guards against a message that comes after the session moved on. ``session``: ``None`` if the gateway
    never received its id. ``unheard``: True if the client may not have received its resume token.
    """

    user: UserId
    session: str | None = None
    gateway: str
    socket: str
    unheard: bool = False


class ReassertRequest(Request):
    """``rpc.presence.reassert``: this socket has a session that presence may have ended or lost.

    ``resume_token``: the clear token, which presence stores hashed.
    """

    user: UserId
    session: str
    gateway: str
    socket: str
    device: DeviceId | None = None
    resume_token: str


class ReassertReply(Wire):
    """``moved``: True if another socket has taken over the session."""

    moved: bool


class RenewRequest(Request):
    """``rpc.presence.renew``: the gateway lives; every :data:`RENEW_SECONDS`. ``leaving``: True if it stops."""

    gateway: str
    leaving: bool = False


class RenewReply(Wire):
    """``known``: True if presence had a lease of the gateway. If not, the gateway reasserts its sessions.

    ``since``: when the lease began (ms). It distinguishes one lease from the next even if the answer to the first
    renewal got lost. ``None`` from a presence that does not know it, and for ``leaving``.
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
    """``rpc.presence.status``; answered with :class:`shared.contracts.client.Status`. ``asker``: the user that asks."""

    user: UserId
    asker: UserId
