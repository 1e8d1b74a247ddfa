"""The envelope of every request between services.

A request carries an id, which stays the same when it is tried again on another instance, and how long its asker waits
for the answer: a service that reads it later does not act on it, and tells nobody of what it did too late.
"""

from typing import Annotated, Any

from pydantic import Field

from shared.contracts.wire import Millis, Wire


class Request(Wire):
    """Base of all requests. ``attempt``: 2 when it is tried again.

    ``expires_at``: when the asker stops waiting, in milliseconds since the epoch. ``left_ms``: how long that is, from
    when it was sent on. See :mod:`shared.messaging.time_budget`.
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
    """The result of a request that has nothing to tell."""
