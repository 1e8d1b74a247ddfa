"""Define every error that a client can receive: a class with a stable code for each row of the protocol's table.

``code`` is for programs and never changes; ``message`` keeps the old server's wording where it had one.
"""

from typing import Any, ClassVar


class SignallingError(Exception):
    """Base of all refusals. Raise a subclass; the gateway sends it as an ``error`` event and acknowledgement."""

    code: ClassVar[str]
    default: ClassVar[str]
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str | None = None, *, call_id: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message or self.default)
        self.message = message or self.default
        self.call_id = call_id
        self.retry_after_ms = retry_after_ms

    def to_wire(self) -> dict[str, Any]:
        """Return ``{code, message, retryable}`` and, where known, ``callId`` and ``retryAfterMs``."""
        wire: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.call_id is not None:
            wire["callId"] = self.call_id
        if self.retry_after_ms is not None:
            wire["retryAfterMs"] = self.retry_after_ms
        return wire

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> "SignallingError":
        """Return the error that another service sent; an unknown code reads as :class:`Unavailable`."""
        code = wire.get("code", "")
        if code == FirstRefused.code:
            return FirstRefused(wire.get("first") or {}, wire.get("also") or [])
        cls = JoinAlone if code == JoinAlone.code else BY_CODE.get(code, Unavailable)
        return cls(wire.get("message"), call_id=wire.get("callId"), retry_after_ms=wire.get("retryAfterMs"))


class BadRequest(SignallingError):
    """The payload fails validation; the message names the field."""

    code, default = "bad_request", "Bad request"


class UserIdRequired(SignallingError):
    """``user:join`` without ``userId``."""

    code, default = "user_id_required", "User ID is required"


class NotAuthenticated(SignallingError):
    """Any event before ``user:join``."""

    code, default = "not_authenticated", "User not authenticated"


class Unauthorized(SignallingError):
    """``from`` of a relay is not the sender, the token is refused, or a join as another user."""

    code, default = "unauthorized", "Unauthorized"


class TokenExpired(SignallingError):
    """The token has expired: the client gets a fresh one from its own server, and joins again."""

    code, default = "token_expired", "Token expired"


class AlreadyInCall(SignallingError):
    """The caller is in a call."""

    code, default = "already_in_call", "Already in a call"


class UserNotFound(SignallingError):
    """The callee is offline, unknown or blocking: one and the same answer."""

    code, default = "user_not_found", "User not found"


class UserUnavailable(SignallingError):
    """The callee is busy."""

    code, default = "user_unavailable", "User is not available"


class CallNotFound(SignallingError):
    """Unknown call, ended call, or a call that is not yours: one and the same answer."""

    code, default = "call_not_found", "Call not found or expired"


class InvalidState(SignallingError):
    """The call is yours, but not in a state for this; the message says what was expected."""

    code, default = "invalid_state", "Not possible in this state of the call"


class ReceiverNotFound(SignallingError):
    """Relay to a user that is not the peer in a call with the sender."""

    code, default = "receiver_not_found", "Receiver not found"


class RateLimited(SignallingError):
    """Over a limit; carries ``retryAfterMs``."""

    code, default, retryable = "rate_limited", "Too many requests", True


class Unavailable(SignallingError):
    """Broker or service out of reach; nothing is known to have happened, trying again is right."""

    code, default, retryable = "unavailable", "Temporarily unavailable", True

    def to_wire(self) -> dict[str, Any]:
        """Leave out the reason, which is for logs: no client can do anything about it."""
        return {**super().to_wire(), "message": self.default}


class Late(Unavailable):
    """The requester has stopped waiting, so a server does not answer such a request, and sends no client the result.

    The requester tries another instance, which answers and sends it.
    """


class NotSent(Unavailable):
    """No instance can have received the request: nothing has happened, and nothing will."""


class JoinAlone(Unavailable):
    """A join of a batch has to wait for a gateway, so it needs a request of its own.

    Presence sends it to gateways, never to clients.
    """

    code = "join_alone"


class FirstRefused(Unavailable):
    """The first join of a batch is refused. Presence sends it to gateways, never to clients.

    ``first``: its error, as on the wire. ``also``: the outcomes of the other joins, in their order, each the JSON of a
    :class:`shared.contracts.presence.AlsoJoined`.
    """

    code = "first_refused"

    def __init__(self, first: dict[str, Any], also: list[dict[str, Any]]) -> None:
        super().__init__()
        self.first = first
        self.also = also

    def to_wire(self) -> dict[str, Any]:
        """Add both to the fields of every error."""
        return {**super().to_wire(), "first": self.first, "also": self.also}


BY_CODE: dict[str, type[SignallingError]] = {cls.code: cls for cls in SignallingError.__subclasses__()}
"""Code → class, for reading errors off the wire."""
