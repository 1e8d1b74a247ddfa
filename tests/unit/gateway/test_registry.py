"""What a client hears of the turns of a call."""

from itertools import permutations

import pytest

from services.gateway.clients.registry import CALL_EVENTS_KEPT, Socket

TURNS = ["call:initiated", "call:incoming", "call:accepted", "call:rejected", "call:ended"]


@pytest.mark.parametrize("order", list(permutations(["call:incoming", "call:accepted", "call:ended"])))
def test_each_call_event_is_sent_once_and_none_after_a_later_one(order: tuple[str, ...]) -> None:
    socket = Socket("sid", "eio")
    heard = [event for event in (*order, *order) if socket.record_call_event(event, "c")]
    assert heard == sorted(set(heard), key=TURNS.index)
    assert heard[-1] == "call:ended" and heard[0] == order[0]


def test_a_call_ends_once() -> None:
    socket = Socket("sid", "eio")
    assert socket.record_call_event("call:rejected", "c") and not socket.record_call_event("call:ended", "c")
    assert socket.record_call_event("call:ended", "another")


def test_recorded_call_events_are_bounded() -> None:
    socket = Socket("sid", "eio")
    for number in range(2 * CALL_EVENTS_KEPT):
        assert socket.record_call_event("call:ended", f"c{number}")
    assert len(socket.call_events) == CALL_EVENTS_KEPT
