"""The protocol's error table, word for word: ``code`` is for programs and never changes."""

from shared import errors
from shared.errors import BY_CODE, CallNotFound, RateLimited, SignallingError, Unavailable

TABLE = {
    "bad_request": (None, False),
    "user_id_required": ("User ID is required", False),
    "not_authenticated": ("User not authenticated", False),
    "unauthorized": ("Unauthorized", False),
    "token_expired": ("Token expired", False),
    "already_in_call": ("Already in a call", False),
    "user_not_found": ("User not found", False),
    "user_unavailable": ("User is not available", False),
    "call_not_found": ("Call not found or expired", False),
    "invalid_state": (None, False),
    "receiver_not_found": ("Receiver not found", False),
    "rate_limited": ("Too many requests", True),
    "unavailable": ("Temporarily unavailable", True),
}


def test_the_table() -> None:
    assert set(BY_CODE) == set(TABLE)
    for code, (message, retryable) in TABLE.items():
        wire = BY_CODE[code]().to_wire()
        assert wire["code"] == code
        assert wire["retryable"] is retryable
        assert message is None or wire["message"] == message


def test_an_error_survives_the_wire() -> None:
    for error in (
        CallNotFound(call_id="c1"),
        RateLimited(retry_after_ms=1500),
        errors.BadRequest("to: is missing"),
    ):
        back = SignallingError.from_wire(error.to_wire())
        assert type(back) is type(error)
        assert back.to_wire() == error.to_wire()


def test_an_unknown_code_reads_as_unavailable() -> None:
    assert isinstance(SignallingError.from_wire({"code": "from_the_future"}), Unavailable)
