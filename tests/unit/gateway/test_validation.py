"""What a client is told about a wrong payload: the field, the rule, and nothing of what it sent."""

from typing import Any

import pytest

from services.gateway.validation import known, validate
from shared.contracts.client import Event
from shared.errors import BadRequest, UserIdRequired

SECRET = "do-not-repeat-me"
ADDRESS = {"from": "alice", "to": "bob"}


@pytest.mark.parametrize(
    ("event", "payload", "field"),
    [
        (Event.INITIATE, {"to": "bob", "callType": SECRET}, "callType"),
        (Event.INITIATE, {"to": "bob"}, "callType"),
        (Event.INITIATE, {"to": [SECRET], "callType": "audio"}, "to"),
        (Event.INITIATE, {"to": "bob", "callType": "audio", "metadata": SECRET * 1000}, "metadata"),
        (Event.ACCEPT, {"callId": {SECRET: 1}}, "callId"),
        (Event.ACCEPT, {"callId": ""}, "callId"),
        (Event.ACCEPT, {"callId": SECRET * 20}, "callId"),
        (Event.END, {"callId": "c", "reason": SECRET.upper()}, "reason"),
        (Event.OFFER, {"offer": SECRET, **ADDRESS}, "offer"),
        (Event.CANDIDATE, {"candidates": [{}, SECRET], **ADDRESS}, "candidates.1"),
        (Event.CANDIDATE, {"candidates": [], **ADDRESS}, "candidates"),
        (Event.JOIN, {"userId": "a\nb"}, "userId"),
        (Event.JOIN, {"userId": "a", "resume": {"sessionId": SECRET}}, "resume"),
    ],
)
def test_the_field_is_named_and_no_value(event: Event, payload: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as raised:
        validate(event, [payload])
    assert raised.value.message.startswith(field)
    assert SECRET.lower() not in raised.value.message.lower()
    assert len(raised.value.message) < 200


def test_the_message_says_what_is_allowed() -> None:
    with pytest.raises(BadRequest, match=r"^callType: must be 'audio' or 'video'$"):
        validate(Event.INITIATE, [{"to": "bob", "callType": "smell"}])


@pytest.mark.parametrize("payload", [{}, {"userId": None}, {"userId": ""}])
def test_a_join_without_user(payload: dict[str, Any]) -> None:
    with pytest.raises(UserIdRequired):
        validate(Event.JOIN, [payload])


@pytest.mark.parametrize("args", [[], [None], [7], ["x"], [[]]])
@pytest.mark.parametrize("event", [Event.JOIN, Event.ACCEPT])
def test_no_object(event: Event, args: list[Any]) -> None:
    with pytest.raises(BadRequest, match=r"^payload"):
        validate(event, args)


@pytest.mark.parametrize("name", ["", "no:such", "connect", "error", "user:joined", "__class__"])
def test_unknown_events(name: str) -> None:
    with pytest.raises(BadRequest, match=r"^Unknown event$"):
        known(name)


@pytest.mark.parametrize(
    "payload",
    [
        {"candidate": None, **ADDRESS},
        {"candidate": {"x": 1}, **ADDRESS},
        {"candidates": [{}, None], **ADDRESS},
    ],
)
def test_candidates_that_are_right(payload: dict[str, Any]) -> None:
    validate(Event.CANDIDATE, [payload])
