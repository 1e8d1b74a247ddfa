"""What a client is told about a wrong payload: the field, the rule, and nothing of what it sent."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from services.gateway.protocol.validation import known, validate
from shared.contracts.client import INBOUND, Event
from shared.errors import BadRequest, SignallingError, UserIdRequired

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


GOOD: dict[Event, dict[str, Any]] = {
    Event.JOIN: {
        "userId": "a", "token": "t", "deviceId": "d", "resume": {"sessionId": "s", "token": "t", "lastSeq": 0},
    },
    Event.INITIATE: {"to": "b", "callType": "audio", "metadata": {}},
    Event.ACCEPT: {"callId": "c", "from": "b"},
    Event.REJECT: {"callId": "c", "from": "b", "reason": "busy"},
    Event.END: {"callId": "c", "reason": "busy"},
    Event.OFFER: {"offer": {}, "callType": "audio", "callId": "c", **ADDRESS},
    Event.ANSWER: {"answer": {}, "callId": "c", **ADDRESS},
    Event.CANDIDATE: {"candidate": {}, "callId": "c", **ADDRESS},
    Event.STATUS: {"userId": "a"},
    Event.ICE_SERVERS: {},
    Event.REFRESH: {"token": "t"},
}  # fmt: skip
"""A payload of each event with each of its keys, but for ``candidates``."""
WRONG: list[Any] = [
    None, True, 0, -1, 7, 1.5, 10**30, "", "x", "X Y", "a\nb", "\ud800", "x" * 129, "x" * 9000, [], {}, [[]], {"x": 1},
    ["x" * 70_000], {"sdp": "x" * 70_000}, [{}] * 65, [{}, 7], [{}, "x"], [{}, None, []], [{"x": "x" * 3000}],
]  # fmt: skip
FOREIGN = re.compile(
    r"\b(valid|validation|input|instance|dictionary|dict|list should|string|str|integer|int|float|number should|bool"
    r"|boolean|None|NoneType|True|False|tuple|mapping|should|value error|pydantic|model|parse|type|python|unicode"
    r"|function|after|JoinRequest|Resume)\b"
)
"""Words of Python and of its validator. What a client may send is JSON: text, numbers, objects, lists, null."""


def _with(payload: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**payload, path[0]: value}
    return {**payload, path[0]: _with(payload[path[0]], path[1:], value)}


def _without(payload: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if len(path) == 1:
        return {key: value for key, value in payload.items() if key != path[0]}
    return {**payload, path[0]: _without(payload[path[0]], path[1:])}


def _paths(payload: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in payload.items():
        yield (key,)
        if key == "resume":
            yield from ((key, inner) for inner in value)


def _payloads(event: Event) -> Iterator[tuple[tuple[str, ...], Any]]:
    good = GOOD[event]
    batch = {**_without(good, ("candidate",)), "candidates": [{}]}
    for one in (good, batch) if event is Event.CANDIDATE else (good,):
        for path in _paths(one):
            yield path, _without(one, path)
            for wrong in WRONG:
                yield path, _with(one, path, wrong)
    if event is Event.CANDIDATE:
        yield (), {**good, "candidates": [{}]}


def test_each_key_of_each_event_is_tried() -> None:
    for event, model in INBOUND.items():
        keys = {str(field.alias) for field in model.model_fields.values()}
        assert set(GOOD[event]) | ({"candidates"} if event is Event.CANDIDATE else set()) == keys
        validate(event, [GOOD[event]])


def _refusal(event: Event, args: list[Any]) -> str | None:
    """The message with which a payload is refused, if it is."""
    try:
        validate(event, args)
    except SignallingError as error:
        return error.message
    return None


@pytest.mark.parametrize("event", INBOUND)
def test_no_message_has_words_of_python(event: Event) -> None:
    refused = [(path, _refusal(event, [payload])) for path, payload in _payloads(event)]
    told = [(path, message) for path, message in refused if message not in (None, UserIdRequired.default)]
    assert told or event is Event.ICE_SERVERS
    for path, message in told:
        field, _, rule = str(message).partition(": ")
        assert field.startswith(".".join(path)) or field == "payload", message
        assert re.match(r"(must|is missing)\b", rule), message
        assert not FOREIGN.search(rule), message


@pytest.mark.parametrize("event", INBOUND)
@pytest.mark.parametrize("args", [[], [None], [7], ["x"], [[]], [True]], ids=repr)
def test_no_message_about_the_whole_payload_has(event: Event, args: list[Any]) -> None:
    if event is not Event.ICE_SERVERS or args not in ([], [None]):
        assert _refusal(event, args) == f"payload: {'must be an object' if args else 'is missing'}"


@pytest.mark.parametrize("args", [[], [None], [{}], [{"x": 1}], [None, 7]])
def test_ice_servers_are_asked_for_with_nothing(args: list[Any]) -> None:
    validate(Event.ICE_SERVERS, args)


@pytest.mark.parametrize("args", [[7], ["x"], [[]], [False]])
def test_ice_servers_are_not_asked_for_with_anything(args: list[Any]) -> None:
    with pytest.raises(BadRequest, match=r"^payload: must be an object$"):
        validate(Event.ICE_SERVERS, args)


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
