"""What is dumped is read back as it was, nulls included: those that mean something, and those that mean absent."""

import json
from typing import Any

import pytest

from shared.contracts.client import INBOUND, Event
from shared.contracts.wire import Wire

WHO = {"from": "alice", "to": "bob", "callId": "c"}
PAYLOADS: list[tuple[Event, dict[str, Any]]] = [
    (Event.JOIN, {"userId": "alice", "token": None, "deviceId": None, "resume": None}),
    (Event.INITIATE, {"to": "bob", "callType": "audio", "metadata": None}),
    (Event.INITIATE, {"to": "bob", "callType": "audio", "metadata": {"a": None, "b": [None, {"c": None}]}}),
    (Event.ACCEPT, {"callId": "c", "from": "alice"}),
    (Event.REJECT, {"callId": "c", "reason": None}),
    (Event.END, {"callId": "c", "reason": None}),
    (Event.OFFER, {**WHO, "callId": None, "offer": {"sdp": None, "type": "offer"}, "callType": None}),
    (Event.ANSWER, {**WHO, "answer": {"sdp": None}}),
    (Event.CANDIDATE, {**WHO, "candidate": None}),
    (Event.CANDIDATE, {**WHO, "callId": None, "candidate": None, "candidates": None}),
    (Event.CANDIDATE, {**WHO, "candidate": {"candidate": "", "sdpMid": None}}),
    (Event.CANDIDATE, {**WHO, "candidates": [None, {"sdpMid": None}]}),
]


@pytest.mark.parametrize(("event", "payload"), PAYLOADS)
def test_a_dump_is_read_back_as_it_was(event: Event, payload: dict[str, Any]) -> None:
    message: Wire = INBOUND[event].model_validate(payload)
    again = INBOUND[event].model_validate_json(message.dump())
    assert again == message
    assert again.dump() == message.dump()


def test_a_candidate_that_is_null_is_there() -> None:
    message = INBOUND[Event.CANDIDATE].model_validate({**WHO, "candidate": None})
    assert json.loads(message.dump()) == {**WHO, "candidate": None}
