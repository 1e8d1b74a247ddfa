"""The send buffer: which relays are kept, retransmitted and given up, and for how long."""

import pytest

from services.gateway.relay import send_buffer
from services.gateway.relay.send_buffer import BYTES_MAX, GIVE_UP_SECONDS, SendBuffer
from services.gateway.relay.send_window import (
    KEEP_SECONDS,
    WINDOW,
    OutstandingRelay,
    SendWindow,
)
from shared.errors import Unavailable
from shared.subjects import FOLLOWS, STARTS

CANDIDATE = "ice:candidate"


def add(
    buffer: SendBuffer, window: SendWindow, now: float = 0.0, *, payload: bytes = b"{}"
) -> OutstandingRelay:
    buffer.check_room(window.session, window, len(payload))
    return buffer.add(window, "ann", "bob", CANDIDATE, payload, now)[0]


def numbers(window: SendWindow) -> list[int]:
    return [relay.number for relay in window.relays if not window.is_acknowledged(relay.number)]


@pytest.fixture
def buffer() -> SendBuffer:
    return SendBuffer()


@pytest.fixture
def window(buffer: SendBuffer) -> SendWindow:
    return buffer.open("s", "c", 101, 0.0)


def test_numbers_of_a_session_grow_from_window_to_window(buffer: SendBuffer, window: SendWindow) -> None:
    for _ in range(5):
        add(buffer, window)
    assert buffer.open("s", "d", 103, 0.0).last_number + 1 == 106, "whatever the clock says"
    assert buffer.open("s", "e", 5_000, 0.0).last_number + 1 == 5_000


def test_a_session_that_has_moved_gets_numbers_above_all_others(
    buffer: SendBuffer, window: SendWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "FLOW_MAX", 3)
    add(buffer, window)
    window.session_moved()
    buffer.renumber(window, 50)
    buffer.renumber(window, 9_000)
    second, flags = buffer.add(window, "ann", "bob", CANDIDATE, b"{}", 0.0)
    assert (second.number, flags) == (9_000, STARTS), "the numbers in between are not waited for"
    third, flags = buffer.add(window, "ann", "bob", CANDIDATE, b"{}", 0.0)
    assert (third.number, flags) == (9_001, FOLLOWS)
    with pytest.raises(Unavailable):
        add(buffer, window)
    window.acknowledged(101, 0, 0.0)
    assert add(buffer, window).number == 9_002, "the room is counted in relays, not in numbers"


def test_a_window_is_ready_if_it_needs_no_further_check(
    buffer: SendBuffer, window: SendWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.owner_changed("cc", 7)
    assert buffer.ready("s", "c", 2, 7) is window and buffer.ready("s", "d", 2, 7) is None
    assert buffer.ready("s", "c", 2, 8) is None, "the owner may be another one"
    for _ in range(WINDOW - 1):
        add(buffer, window)
    assert buffer.ready("s", "c", 2, 7) is window
    add(buffer, window)
    assert buffer.ready("s", "c", 2, 7) is None, "its client may have to wait"
    window.acknowledged(window.last_number, 0, 0.0)
    room = BYTES_MAX // 2 - buffer.size
    assert buffer.ready("s", "c", room, 7) is window and buffer.ready("s", "c", room + 1, 7) is None
    window.session_moved()
    assert buffer.ready("s", "c", 2, 7) is None, "its numbers start anew"
    add(buffer, window)
    assert buffer.ready("s", "c", 2, 7) is window
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 2)
    assert buffer.ready("s", "c", 2, 7) is None, "half full"


def test_only_windows_with_outstanding_relays_are_active(buffer: SendBuffer, window: SendWindow) -> None:
    other = buffer.open("s", "d", 500, 0.0)
    assert buffer.active(0.0) == [], "nothing is in them yet"
    add(buffer, window)
    add(buffer, other)
    assert buffer.active(0.0) == [window, other]
    window.acknowledged(window.last_number, 0, 0.0)
    assert buffer.active(0.0) == [other] and list(buffer) == [window, other]
    add(buffer, window)
    assert buffer.active(0.0) == [other, window]
    for each in (window, other):
        each.acknowledged(each.last_number, 0, 0.0)
    assert buffer.active(0.0) == []
    buffer.suspect_loss(window)
    assert buffer.active(0.0) == [window]


def test_idle_windows_are_forgotten_in_time(buffer: SendBuffer, window: SendWindow) -> None:
    add(buffer, window)
    unused = buffer.open("s", "d", 500, 0.0)
    window.acknowledged(window.last_number, 0, 0.0)
    now, looked = 0.0, []
    while list(buffer) and now < 60:
        looked.append((now, len(buffer.active(now))))
        buffer.tidy(now)
        assert now < KEEP_SECONDS or buffer.get("s", "d") is not unused
        now += 0.25
    assert KEEP_SECONDS <= looked[-1][0] <= 3 * KEEP_SECONDS and not any(count for _, count in looked)
    assert buffer.count == 0 and not buffer.of("s")


def test_a_window_that_is_given_up_is_not_forgotten_twice(buffer: SendBuffer, window: SendWindow) -> None:
    add(buffer, window)
    window.acknowledged(window.last_number, 0, 0.0)
    assert buffer.active(0.0) == []
    add(buffer, window, 0.0)
    assert buffer.expire(window, GIVE_UP_SECONDS + 1)
    for now in (11.0, 14.0):
        buffer.trim(window, now)
        if not list(buffer):
            break
    assert not list(buffer) and buffer.active(15.0) == []
    again = buffer.open("s", "c", 900, 15.0)
    add(buffer, again, 15.0)
    buffer.tidy(16.0)
    assert list(buffer) == [again] and buffer.active(16.0) == [again]


def test_acknowledged_relays_are_kept_for_a_while_and_then_all_is_forgotten(
    buffer: SendBuffer, window: SendWindow
) -> None:
    add(buffer, window)
    window.acknowledged(101, 0, 0.0)
    buffer.trim(window, KEEP_SECONDS)
    assert buffer.count == 1, "it was not acknowledged that long ago when it was looked at last"
    buffer.trim(window, 2 * KEEP_SECONDS)
    assert (buffer.count, buffer.size, list(buffer), buffer.of("s")) == (0, 0, [], [])


def test_relays_that_are_too_old_are_given_up(buffer: SendBuffer, window: SendWindow) -> None:
    old, void, young = add(buffer, window, 0.0), add(buffer, window, 0.0), add(buffer, window, 5.0)
    buffer.withdraw(window, void)
    assert buffer.expire(window, GIVE_UP_SECONDS) == []
    assert buffer.expire(window, GIVE_UP_SECONDS + 1) == [old], "the client of the void one knows"
    assert numbers(window) == [young.number] and buffer.size == len(young.payload)
    window.owner_changed("cc", 1)
    assert window.retransmission_begun(0.0) == [(young, STARTS)]


def test_clients_are_not_told_that_an_acknowledged_relay_was_given_up(
    buffer: SendBuffer, window: SendWindow
) -> None:
    add(buffer, window)
    window.acknowledged(101, 0, 1.0)
    buffer.suspect_loss(window)
    assert buffer.expire(window, GIVE_UP_SECONDS + 1) == [] and not window.has_outstanding


@pytest.mark.parametrize(("limit", "value"), [("RELAYS_MAX", 6), ("BYTES_MAX", 160), ("FLOW_MAX", 3)])
def test_full(
    buffer: SendBuffer, window: SendWindow, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(send_buffer, limit, value)
    for _ in range(3):
        add(buffer, window, payload=b"0123456789")
    with pytest.raises(Unavailable):
        add(buffer, window, payload=b"0123456789")
    window.acknowledged(101, 0, 0.0)
    add(buffer, window, payload=b"0123456789")
    with pytest.raises(Unavailable):
        add(buffer, window, payload=b"0123456789")


def test_a_relay_is_found_by_its_number(buffer: SendBuffer, window: SendWindow) -> None:
    other = buffer.open("s", "d", 500, 0.0)
    add(buffer, window)
    add(buffer, other)
    assert buffer.find("s", 101) is window and buffer.find("s", 500) is other
    assert buffer.find("s", 102) is None and buffer.find("t", 101) is None


def test_sessions_that_fill_the_buffer_leave_room_for_others() -> None:
    buffer, big = SendBuffer(), b"x" * 64_000
    sent = dict.fromkeys(range(60), 0)
    for _ in range(40):
        for n in sent:
            try:
                # Each time another call, so that it is not the calls that are bounded.
                window = buffer.open(f"hostile-{n}", f"call-{sent[n]}", 1, 0.0)
                add(buffer, window, payload=big)
                sent[n] += 1
            except Unavailable:
                pass
    assert min(sent.values()) > 0 and buffer.size <= BYTES_MAX
    calm = buffer.open("calm", "call", 1, 0.0)
    for _ in range(3):
        add(buffer, calm, payload=big)
    with pytest.raises(Unavailable):
        add(buffer, buffer.get("hostile-0", "call-0") or calm, payload=b"x" * BYTES_MAX)


def test_acknowledged_relays_do_not_count_as_a_share() -> None:
    buffer, big = SendBuffer(), b"x" * 64_000
    window = buffer.open("one", "call", 1, 0.0)
    for _ in range(4 * BYTES_MAX // len(big)):
        add(buffer, window, payload=big)
        window.acknowledged(window.last_number, 0, 0.0)
    assert buffer.size <= BYTES_MAX
