"""Limits of flows, bundles and the outbox, each at its edge."""

import pytest

from services.gateway.relay import send_buffer
from services.gateway.relay import send_window as flows
from services.gateway.relay.batch import Batch
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import WINDOW, WINDOW_SECONDS, OutstandingRelay, SendWindow
from shared.contracts.relays import TOGETHER_BYTES, TOGETHER_MAX
from shared.errors import Unavailable


def sent(
    number: int, payload: bytes = b"{}", *, event: str = "ice:candidate", wanted: bool = False
) -> OutstandingRelay:
    return OutstandingRelay(number, event, "tail", payload, wanted, 0.0)


def test_a_client_is_held_up_only_past_the_window_and_only_for_a_while() -> None:
    flow = SendWindow("s", "c", 100, 10.0)
    flow.acked = 100
    flow.last = 100 + WINDOW - 1
    assert not flow.crowded(10.0)
    flow.last += 1
    assert flow.crowded(10.0) and flow.crowded(10.0 + WINDOW_SECONDS - 0.01)
    assert not flow.crowded(10.0 + WINDOW_SECONDS), "waiting does not help"


def test_a_flow_owes_only_what_is_to_get_through() -> None:
    box = SendBuffer()
    flow = box.open("s", "c", 1, 0.0)
    assert not flow.owes()
    first, second = sent(1), sent(2)
    box.add(flow, first, 0.0)
    assert flow.owes()
    flow.acked = 1
    assert not flow.owes(), "it is acknowledged, and still kept"
    box.add(flow, second, 0.0)
    assert flow.owes()
    box.void(second)
    assert not flow.owes() and flow.waiting


def test_the_subject_of_a_relay_is_found_once_for_each_receiver_and_event() -> None:
    flow = SendWindow("s", "c", 1, 0.0)
    tail = flow.tail("ann", "bob", "call:offer")
    assert tail == "c.ann.s.bob.call:offer"
    flow.tails["bob", "call:offer"] = "remembered"
    assert flow.tail("ann", "bob", "call:offer") == "remembered"
    for n in range(flows._TAILS_MAX + 1):
        flow.tail("ann", f"user{n}", "call:offer")
        assert len(flow.tails) <= flows._TAILS_MAX


REPLY = "receipt.gw-1.s.7-0s"


def bundle(first: OutstandingRelay, marks: str = "0s") -> Batch:
    return Batch("relay.x", REPLY, first, marks, b"message")


def test_what_joins_a_message_says_how_many_there_are() -> None:
    one = bundle(sent(7, b"a"))
    assert one.message == b"message"
    assert one.joined("relay.x", sent(8, b"b"), "0f") == (b"a\nb", "receipt.gw-1.s.7+1-0s")
    one.join(sent(8, b"b"), b"longer")
    assert one.message == b"longer"
    assert one.joined("relay.x", sent(9, b"c"), "0f") == (b"a\nb\nc", "receipt.gw-1.s.7+2-0s")


@pytest.mark.parametrize(
    ("subject", "relay", "marks"),
    [
        ("relay.y", sent(8), "0f"),
        ("relay.x", sent(8), "1f"),
        ("relay.x", sent(8), "0fw"),
        ("relay.x", sent(9), "0f"),
        ("relay.x", sent(8, b""), "0f"),
    ],
)
def test_what_does_not_follow_does_not_join(subject: str, relay: OutstandingRelay, marks: str) -> None:
    assert bundle(sent(7)).joined(subject, relay, marks) is None


def test_a_message_has_bounds() -> None:
    half = bundle(sent(7, b"x" * (TOGETHER_BYTES // 2)))
    assert half.joined("relay.x", sent(8, b"x" * (TOGETHER_BYTES - TOGETHER_BYTES // 2)), "0f") is not None
    assert half.joined("relay.x", sent(8, b"x" * (TOGETHER_BYTES - TOGETHER_BYTES // 2 + 1)), "0f") is None
    many = bundle(sent(7))
    for n in range(8, 7 + TOGETHER_MAX):
        assert many.joined("relay.x", sent(n), "0f") is not None
        many.join(sent(n), b"m")
    assert many.joined("relay.x", sent(7 + TOGETHER_MAX), "0f") is None
    size = bundle(sent(7, b"x" * (TOGETHER_BYTES - 4)))
    size.join(sent(8, b"xx"), b"m")
    assert size.joined("relay.x", sent(9, b"xx"), "0f") is not None
    assert size.joined("relay.x", sent(9, b"xxx"), "0f") is None


@pytest.mark.parametrize(
    ("relay", "marks", "may"),
    [
        (sent(7), "0s", True),
        (sent(7), "0", True),
        (sent(7, event="call:offer"), "0", False),
        (sent(7, b""), "0", False),
        (sent(7, wanted=True), "0w", False),
        (sent(7), "1a", False),
    ],
)
def test_only_new_candidates_of_which_nobody_waits_to_hear_begin_one(
    relay: OutstandingRelay, marks: str, may: bool
) -> None:
    assert Batch.may_begin(relay, marks) is may


def test_a_flow_has_room_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_buffer, "FLOW_MAX", 3)
    box = SendBuffer()
    flow = box.open("s", "c", 10, 0.0)
    for n in range(10, 13):
        box.check_room("s", flow, 2)
        box.add(flow, sent(n), 0.0)
    with pytest.raises(Unavailable) as full:
        box.check_room("s", flow, 2)
    assert full.value.message == "Too many relays are waiting"
    flow.acked = 10
    box.check_room("s", flow, 2)


def test_a_session_has_its_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 16)
    box = SendBuffer()
    mine, others = box.open("s", "c", 1, 0.0), box.open("t", "c", 100, 0.0)
    for n in range(100, 107):
        box.check_room("t", others, 2)
        box.add(others, sent(n), 0.0)
    for n in range(1, 3):  # 7 and 8 of 16: half is full with the second
        box.check_room("s", mine, 2)
        box.add(mine, sent(n), 0.0)
    # 9 of 16: a quarter of the 7 that are free is 1, and this session has 2.
    with pytest.raises(Unavailable) as full:
        box.check_room("s", mine, 2)
    assert full.value.message == "Too many relays are waiting"
    box.check_room("u", None, 2)


def test_a_session_has_its_share_of_the_bytes_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_buffer, "BYTES_MAX", 1_000)
    box = SendBuffer()
    flow = box.open("s", "c", 1, 0.0)
    box.check_room("s", flow, 500)
    box.add(flow, sent(1, b"x" * 100), 0.0)
    box.check_room("s", flow, 400)
    box.add(box.open("t", "c", 50, 0.0), sent(50, b"x" * 500), 0.0)
    # 400 are free, a quarter is 100: this session has 100 already.
    with pytest.raises(Unavailable):
        box.check_room("s", flow, 1)
    box.check_room("u", None, 100)
    with pytest.raises(Unavailable):
        box.check_room("u", None, 101)


def test_what_is_acknowledged_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked for once, and then only now and then."""
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 8)
    monkeypatch.setattr(send_buffer, "LOOK_EVERY", 3)
    box = SendBuffer()
    done, flow = box.open("t", "c", 1, 0.0), box.open("s", "c", 100, 0.0)
    for n in range(1, 5):
        box.add(done, sent(n), 0.0)
    done.acked = 4
    box.check_room("s", flow, 2)
    assert box.count == 0 and box.size == 0, "it was full, and what is acknowledged went"
    for n in range(5, 9):
        box.add(done, sent(n), 0.0)
    box.check_room("u", None, 2)
    assert box.count == 4, "nothing is acknowledged"
    done.acked = 8
    for _ in range(2):
        box.check_room("u", None, 2)
        assert box.count == 4, "not looked for each time"
    box.check_room("u", None, 2)
    assert box.count == 0


@pytest.mark.parametrize(("clock", "number"), [(5, 201), (500, 500)])
def test_numbers_after_a_move_are_above_all_others(clock: int, number: int) -> None:
    box = SendBuffer()
    flow, other = box.open("s", "c", 10, 0.0), box.open("t", "c", 200, 0.0)
    box.add(flow, sent(10), 0.0)
    box.add(other, sent(200), 0.0)
    assert box.number_after_move(flow, clock) == number
    assert box.number_after_move(other, clock) == number
    lone = SendBuffer()
    assert lone.number_after_move(lone.open("s", "c", 50, 0.0), 3) == 50
