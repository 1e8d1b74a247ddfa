"""Limits of send windows, batches and the send buffer, each at its edge."""

import pytest

from services.gateway.relay import send_buffer
from services.gateway.relay.batch import Batch
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import WINDOW, WINDOW_SECONDS, OutstandingRelay, SendWindow
from shared.contracts.relays import TOGETHER_BYTES, TOGETHER_MAX, stamp
from shared.errors import Unavailable
from shared.subjects import FOLLOWS, REDELIVER, STARTS, WANTS_RECEIPT


def relay(
    number: int, payload: bytes = b"{}", *, event: str = "ice:candidate", wants_receipt: bool = False
) -> OutstandingRelay:
    return OutstandingRelay(number, event, "tail", payload, wants_receipt, 0.0)


def add(buffer: SendBuffer, window: SendWindow, count: int = 1) -> OutstandingRelay:
    """Add relays of two bytes and their stamps; return the last."""
    for _ in range(count):
        added, _ = buffer.add(window, "ann", "bob", "ice:candidate", b"{}", 0.0)
    return added


def test_a_client_waits_only_past_the_window_and_only_for_a_while() -> None:
    buffer = SendBuffer()
    window = buffer.open("s", "c", 100, 10.0)
    add(buffer, window)
    window.acknowledged(100, 0, 10.0)
    add(buffer, window, WINDOW - 1)
    window.acknowledged(100, 0, 10.0)
    assert not window.is_full(0.0)
    add(buffer, window)
    assert window.is_full(0.0) and window.is_full(WINDOW_SECONDS - 0.01)
    assert not window.is_full(WINDOW_SECONDS), "waiting does not help"


def test_a_window_has_undelivered_relays_until_they_are_acknowledged_or_void() -> None:
    buffer = SendBuffer()
    window = buffer.open("s", "c", 1, 0.0)
    assert not window.has_undelivered()
    add(buffer, window)
    assert window.has_undelivered()
    window.acknowledged(1, 0, 0.0)
    assert not window.has_undelivered(), "it is acknowledged, and still kept"
    second = add(buffer, window)
    assert window.has_undelivered()
    buffer.withdraw(window, second)
    assert not window.has_undelivered() and window.has_outstanding


REPLY = "receipt.gw-1.s.7-0s"


def batch(first: OutstandingRelay) -> Batch:
    return Batch("relay.x", REPLY, first, 0, b"message")


def test_the_reply_subject_of_a_batch_has_the_number_of_relays() -> None:
    one = batch(relay(7, b"a"))
    assert one.message == b"message"
    assert one.joined("relay.x", relay(8, b"b"), 0, FOLLOWS) == (b"a\nb", "receipt.gw-1.s.7+1-0s")
    one.join(relay(8, b"b"), b"longer")
    assert one.message == b"longer"
    assert one.joined("relay.x", relay(9, b"c"), 0, FOLLOWS) == (b"a\nb\nc", "receipt.gw-1.s.7+2-0s")


@pytest.mark.parametrize(
    ("subject", "other", "attempt", "flags"),
    [
        ("relay.y", relay(8), 0, FOLLOWS),
        ("relay.x", relay(8), 1, FOLLOWS),
        ("relay.x", relay(8), 0, 0),
        ("relay.x", relay(8), 0, FOLLOWS | WANTS_RECEIPT),
        ("relay.x", relay(9), 0, FOLLOWS),
        ("relay.x", relay(8, b""), 0, FOLLOWS),
    ],
)
def test_a_relay_that_does_not_follow_does_not_join(
    subject: str, other: OutstandingRelay, attempt: int, flags: int
) -> None:
    assert batch(relay(7)).joined(subject, other, attempt, flags) is None


def test_a_message_has_bounds() -> None:
    half = batch(relay(7, b"x" * (TOGETHER_BYTES // 2)))
    assert (
        half.joined("relay.x", relay(8, b"x" * (TOGETHER_BYTES - TOGETHER_BYTES // 2)), 0, FOLLOWS)
        is not None
    )
    assert (
        half.joined("relay.x", relay(8, b"x" * (TOGETHER_BYTES - TOGETHER_BYTES // 2 + 1)), 0, FOLLOWS)
        is None
    )
    many = batch(relay(7))
    for n in range(8, 7 + TOGETHER_MAX):
        assert many.joined("relay.x", relay(n), 0, FOLLOWS) is not None
        many.join(relay(n), b"m")
    assert many.joined("relay.x", relay(7 + TOGETHER_MAX), 0, FOLLOWS) is None
    size = batch(relay(7, b"x" * (TOGETHER_BYTES - 4)))
    size.join(relay(8, b"xx"), b"m")
    assert size.joined("relay.x", relay(9, b"xx"), 0, FOLLOWS) is not None
    assert size.joined("relay.x", relay(9, b"xxx"), 0, FOLLOWS) is None


@pytest.mark.parametrize(
    ("first", "flags", "may"),
    [
        (relay(7), STARTS, True),
        (relay(7), 0, True),
        (relay(7, event="call:offer"), 0, False),
        (relay(7, b""), 0, False),
        (relay(7, wants_receipt=True), WANTS_RECEIPT, False),
        (relay(7), REDELIVER, False),
    ],
)
def test_only_new_candidates_without_an_acknowledgement_begin_a_batch(
    first: OutstandingRelay, flags: int, may: bool
) -> None:
    assert Batch.may_begin(first, flags) is may


def test_a_window_has_room_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_buffer, "FLOW_MAX", 3)
    buffer = SendBuffer()
    window = buffer.open("s", "c", 10, 0.0)
    for _ in range(3):
        buffer.check_room("s", window, 2)
        add(buffer, window)
    with pytest.raises(Unavailable) as full:
        buffer.check_room("s", window, 2)
    assert full.value.message == "Too many relays are waiting"
    window.acknowledged(10, 0, 0.0)
    buffer.check_room("s", window, 2)


def test_a_session_has_its_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 16)
    buffer = SendBuffer()
    mine, others = buffer.open("s", "c", 1, 0.0), buffer.open("t", "c", 100, 0.0)
    for _ in range(7):
        buffer.check_room("t", others, 2)
        add(buffer, others)
    for _ in range(2):  # 7 and 8 of 16: half is full with the second
        buffer.check_room("s", mine, 2)
        add(buffer, mine)
    # 9 of 16: a quarter of the 7 that are free is 1, and this session has 2.
    with pytest.raises(Unavailable) as full:
        buffer.check_room("s", mine, 2)
    assert full.value.message == "Too many relays are waiting"
    buffer.check_room("u", None, 2)


def test_a_session_has_its_share_of_the_bytes_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_buffer, "BYTES_MAX", 1_000)
    buffer = SendBuffer()

    def fill(window: SendWindow, size: int) -> None:
        """Add a relay that has ``size`` bytes with its stamp."""
        payload = b"x" * (size + 1 - len(stamp(b"x", window.session, window.last_number + 1)))
        added, _ = buffer.add(window, "ann", "bob", "ice:candidate", payload, 0.0)
        assert len(added.payload) == size

    window = buffer.open("s", "c", 1, 0.0)
    buffer.check_room("s", window, 500)
    fill(window, 100)
    buffer.check_room("s", window, 400)
    fill(buffer.open("t", "c", 50, 0.0), 500)
    # 400 are free, a quarter is 100: this session has 100 already.
    with pytest.raises(Unavailable):
        buffer.check_room("s", window, 1)
    buffer.check_room("u", None, 100)
    with pytest.raises(Unavailable):
        buffer.check_room("u", None, 101)


def test_what_is_acknowledged_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked for once, and then only now and then."""
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 8)
    monkeypatch.setattr(send_buffer, "LOOK_EVERY", 3)
    buffer = SendBuffer()
    done, window = buffer.open("t", "c", 1, 0.0), buffer.open("s", "c", 100, 0.0)
    add(buffer, done, 4)
    done.acknowledged(4, 0, 0.0)
    buffer.check_room("s", window, 2)
    assert buffer.count == 0 and buffer.size == 0, "it was full, and what is acknowledged went"
    add(buffer, done, 4)
    buffer.check_room("u", None, 2)
    assert buffer.count == 4, "nothing is acknowledged"
    done.acknowledged(done.last_number, 0, 0.0)
    for _ in range(2):
        buffer.check_room("u", None, 2)
        assert buffer.count == 4, "not looked for each time"
    buffer.check_room("u", None, 2)
    assert buffer.count == 0


@pytest.mark.parametrize(("clock", "number"), [(5, 201), (500, 500)])
def test_numbers_after_a_move_are_above_all_others(clock: int, number: int) -> None:
    for moved in ("s", "t"):
        buffer = SendBuffer()
        windows = {"s": buffer.open("s", "c", 10, 0.0), "t": buffer.open("t", "c", 200, 0.0)}
        for window in windows.values():
            add(buffer, window)
        windows[moved].session_moved()
        buffer.renumber(windows[moved], clock)
        assert add(buffer, windows[moved]).number == number
    lone = SendBuffer()
    window = lone.open("s", "c", 50, 0.0)
    window.session_moved()
    lone.renumber(window, 3)
    assert add(lone, window).number == 50
