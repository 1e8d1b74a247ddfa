"""Define the envelope of every request between services.

A request carries an id, which stays the same when it is tried again on another instance. It also carries how long the
requester waits: a service that reads it later does not act on it, and does not answer.
"""

from typing import Annotated, Any

from pydantic import Field

from shared.contracts.wire import Millis, Wire


class Request(Wire):
    """Base of all requests. ``attempt``: 2 when it is tried again.

    ``expires_at``: when the requester stops waiting, in milliseconds since the epoch. ``left_ms``: milliseconds from
    sending until then. See :mod:`shared.messaging.time_budget`.
    """

    request_id: Annotated[str, Field(min_length=1, max_length=64)]
    expires_at: Millis = 0
    left_ms: Millis = 0
    attempt: int = 1


class Reply(Wire):
    """``{ok: true, result}`` or ``{ok: false, error: {code, message, retryable, …}}``."""

    ok: bool
    result: Any = None
    error: dict[str, Any] | None = None


class Done(Wire):
    """The result of a request without data."""
