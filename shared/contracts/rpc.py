"""The envelope of every request between services.

A request carries an id, which stays the same when it is tried again on another instance, and the time after which
nobody waits for the answer: a service that reads it later does not act on it.
"""

from typing import Annotated, Any

from pydantic import Field

from shared.contracts.wire import Millis, Wire


class Request(Wire):
    """Base of all requests. ``expires_at``: milliseconds since the epoch. ``attempt``: 2 when it is tried again."""

    request_id: Annotated[str, Field(min_length=1, max_length=64)]
    expires_at: Millis = 0
    attempt: int = 1


class Reply(Wire):
    """``{ok: true, result}`` or ``{ok: false, error: {code, message, retryable, …}}``."""

    ok: bool
    result: Any = None
    error: dict[str, Any] | None = None


class Done(Wire):
    """The result of a request that has nothing to tell."""
