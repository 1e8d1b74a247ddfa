"""Define the records of the stream ``EVENTS``, for consumers that the operator runs. No metadata, no addresses."""

from shared.contracts.client import CallType
from shared.contracts.wire import Millis, Wire


class CallEvent(Wire):
    """``event.call.<call>.<what>``: a call as it is then. ``by``, ``reason``: of its end."""

    call_id: str
    caller: str
    callee: str
    call_type: CallType
    created_at: Millis
    accepted_at: Millis | None = None
    ended_at: Millis | None = None
    by: str | None = None
    reason: str | None = None


class UserEvent(Wire):
    """``event.user.<user>.<what>``: a session of a user, at a gateway."""

    user_id: str
    session_id: str
    gateway: str
    at: Millis
