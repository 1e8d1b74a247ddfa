"""Define the requests to callcore. Each names the user and session that caused it, checked by the gateway."""

from typing import Any, ClassVar, Literal

from shared.contracts.client import CallType
from shared.contracts.rpc import Request
from shared.contracts.wire import CallId, Millis, Reason, UserId, Wire

FORMING_MS = 2_000
"""Milliseconds that a reservation may exist before its call: as long as one try of a call set-up takes."""


class ByClient(Request):
    """A request that a client's event caused. ``gateway`` and ``session`` are its address."""

    user: UserId
    session: str
    gateway: str
    settle: bool = False
    """True if callcore is to do nothing new: if it did this very request before, it redelivers the call events."""


class InitiateRequest(ByClient):
    """``rpc.calls.initiate``. ``call`` is minted by the gateway, so a request tried again is the same call."""

    call: str
    to: UserId
    call_type: CallType
    metadata: Any = None


class InitiateReply(Wire):
    """``call`` is another call's id if the peer's call came first (glare)."""

    call: str
    to: str
    expires_at: Millis


class AcceptRequest(ByClient):
    """``rpc.calls.accept``"""

    call: CallId


class RejectRequest(ByClient):
    """``rpc.calls.reject``"""

    call: CallId
    reason: Reason | None = None


class EndRequest(ByClient):
    """``rpc.calls.end``"""

    call: CallId
    reason: Reason | None = None


class CallReply(Wire):
    """The call that was acted on."""

    call: str


class FindRequest(ByClient):
    """``rpc.calls.find``: the call between ``user`` and ``to``, for a relay that names none."""

    to: UserId


class AttachedRequest(ByClient):
    """``rpc.calls.attached``: a session of a busy user joined or moved to this address. Ring it, or move the call.

    ``resumed``: True if its client has the messages of its mailbox, so a ringing call is not redelivered.
    """

    resumed: bool = False


class HeldCall(Wire):
    """The call that a session takes part in, or that rings on it. ``party``: the session placed or accepted it."""

    call: str
    peer: UserId
    call_type: CallType
    state: Literal["ringing", "accepted"]
    created_at: Millis
    party: bool


class AttachedReply(Wire):
    """``call``: the call of the session; ``None`` if its user has none, or has it on another device."""

    call: HeldCall | None = None


class LeftRequest(ByClient):
    """``rpc.calls.left``: a session of a busy user is gone. ``reason``: ``hangup`` or ``connection_lost``.

    ``call``: the call for which the user was reserved when presence read it.
    """

    reason: Reason
    call: str | None = None


class Reservation(Wire):
    """Value of ``user.<user>`` in bucket ``calls``: the user is in this call, or about to be.

    ``since``: when the user was reserved. A reservation whose call is not created after :data:`FORMING_MS` is void.
    """

    call: str
    peer: UserId
    since: Millis


class CallState(Wire):
    """The fields of ``call.<call>`` in bucket ``calls`` that other services than callcore may read."""

    ENDED: ClassVar[str] = "ended"

    state: str


class Released(Wire):
    """The note in the marker of a released reservation: the call that ended, and the id of the request that ended it.

    So that request, repeated within some seconds, finds its transition.
    """

    call: str
    cause: str
