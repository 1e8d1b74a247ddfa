"""What is counted of a call: each transition once, reasons by name or not at all."""

import pytest

from services.callcore.calls.stats import CallStats
from services.callcore.state.model import Address, Call, Reason, State

AT = Address(session="s", gateway="g")


def call(state: State, **values: object) -> Call:
    fields = {
        "caller_at": AT,
        "call_type": "video",
        "created_at": 1_000,
        "expires_at": 46_000,
        "caused_by": "r",
    }
    return Call.model_validate(
        {"call": "c", "state": state, "caller": "a", "callee": "b", **fields, **values}
    )


def test_a_call_that_is_answered_and_ends() -> None:
    counts = CallStats()
    counts.count_placed(call(State.RINGING))
    accepted = call(State.ACCEPTED, accepted_at=4_500)
    counts.count_transition(State.RINGING, accepted)
    counts.count_transition(State.ACCEPTED, accepted)  # it only has another address
    counts.count_transition(
        State.ACCEPTED, call(State.ENDED, accepted_at=4_500, ended_at=64_500, reason="hangup")
    )
    assert counts.placed_by_type == {"video": 1} and counts.accepted == 1
    assert counts.ended == {("answered", "hangup"): 1}
    assert (counts.rang["answered"].count, counts.rang["answered"].sum) == (1, 3.5)
    assert (counts.talked.count, counts.talked.sum) == (1, 60.0)
    assert counts.rang["unanswered"].count == 0


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("timeout", "timeout"),
        ("busy", "busy"),
        ("alice_said_so", "other"),
        (Reason.VOID, "other"),
        (None, "other"),
    ],
)
def test_the_reasons_of_unanswered_calls(reason: str | None, counted: str) -> None:
    counts = CallStats()
    counts.count_transition(State.RINGING, call(State.ENDED, ended_at=46_000, reason=reason))
    assert counts.ended == {("unanswered", counted): 1}
    assert (counts.rang["unanswered"].count, counts.rang["unanswered"].sum) == (1, 45.0)
    assert counts.talked.count == counts.accepted == 0
