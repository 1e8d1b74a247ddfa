"""The outbox: what is kept, what is sent again, and for how long."""

import pytest

from services.gateway.relay import send_buffer
from services.gateway.relay import send_window as flows
from services.gateway.relay.send_buffer import BYTES_MAX, GIVE_UP_SECONDS, SendBuffer
from services.gateway.relay.send_window import (
    AGAIN_SECONDS,
    KEEP_SECONDS,
    RESEND_SECONDS,
    WINDOW,
    OutstandingRelay,
    SendWindow,
)
from shared.errors import Unavailable


def add(
    box: SendBuffer, flow: SendWindow, now: float = 0.0, *, payload: bytes = b"{}", wanted: bool = False
) -> OutstandingRelay:
    sent = OutstandingRelay(flow.last + 1, "ice:candidate", "tail", payload, wanted, now)
    box.check_room(flow.session, flow, len(payload))
    box.add(flow, sent, now)
    return sent


def numbers(flow: SendWindow) -> list[int]:
    return [sent.number for _, sent in flow.after(flow.acked)]


@pytest.fixture
def box() -> SendBuffer:
    return SendBuffer()


@pytest.fixture
def flow(box: SendBuffer) -> SendWindow:
    return box.open("s", "c", 101, 0.0)


def test_numbers_of_a_session_grow_from_flow_to_flow(box: SendBuffer, flow: SendWindow) -> None:
    for _ in range(5):
        add(box, flow)
    assert box.open("s", "d", 103, 0.0).last + 1 == 106, "whatever the clock says"
    assert box.open("s", "e", 5_000, 0.0).last + 1 == 5_000


def test_numbers_of_a_session_that_was_elsewhere_go_on_above_those_from_there(
    box: SendBuffer, flow: SendWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "FLOW_MAX", 3)
    first = add(box, flow)
    flow.moved = True
    assert box.number_after_move(flow, 50) == 102 and box.number_after_move(flow, 9_000) == 9_000
    second = OutstandingRelay(9_000, "ice:candidate", "tail", b"{}", False, 0.0, starts=True)
    box.add(flow, second, 0.0)
    assert flow.marks(second, first, follows=True) == "0s", "nobody waits for the numbers in between"
    third = add(box, flow)
    assert (third.number, flow.marks(third, second, follows=True)) == (9_001, "0f")
    with pytest.raises(Unavailable):
        add(box, flow)
    flow.acknowledge(101, 0, 0.0)
    assert add(box, flow).number == 9_002, "the room is counted in relays, not in numbers"


def test_acknowledgements_count_up_to_a_number(box: SendBuffer, flow: SendWindow) -> None:
    for _ in range(5):
        add(box, flow)
    flow.acknowledge(103, 0, 1.0)
    assert flow.waiting and numbers(flow) == [104, 105]
    flow.acknowledge(102, 0, 1.0)
    assert numbers(flow) == [104, 105]
    flow.acknowledge(9_999, 0, 1.0)
    assert not flow.waiting and flow.acked == 105


def test_an_acknowledgement_of_an_earlier_time_does_not_count(box: SendBuffer, flow: SendWindow) -> None:
    add(box, flow)
    flow.begin(1.0)
    flow.acknowledge(101, 0, 1.0)
    assert flow.waiting
    flow.acknowledge(101, 1, 1.0)
    assert not flow.waiting


def test_an_acknowledgement_does_not_count_before_what_is_doubted_was_sent_again(
    box: SendBuffer, flow: SendWindow
) -> None:
    add(box, flow)
    flow.doubt()
    flow.acknowledge(101, 0, 1.0)
    assert flow.waiting and flow.behind


def test_marks(box: SendBuffer, flow: SendWindow) -> None:
    first, second = add(box, flow), add(box, flow, wanted=True)
    assert flow.marks(first, None, follows=False) == "0s"
    assert flow.marks(second, first, follows=True) == "0fw"
    box.void(first)
    assert flow.marks(second, first, follows=True) == "0fsw", "nobody gets the one before it"
    flow.doubt()
    flow.begin(1.0)
    third = add(box, flow)
    assert flow.marks(second, first, follows=True) == "1fsaw"
    assert flow.marks(third, second, follows=True) == "1f", "what was sent after the doubt is not in doubt"


def test_what_comes_after_a_relay_that_is_kept_does_not_start(box: SendBuffer, flow: SendWindow) -> None:
    first, second = add(box, flow), add(box, flow)
    flow.acknowledge(101, 0, 0.0)
    assert flow.after(flow.acked) == [(first, second)]
    for now in (0.0, KEEP_SECONDS, 2 * KEEP_SECONDS):
        box.trim(flow, now)
    assert flow.after(flow.acked) == [(None, second)]


def test_the_marks_of_a_new_one(box: SendBuffer, flow: SendWindow) -> None:
    def put(*, starts: bool = False) -> str:
        return box.add(
            flow, OutstandingRelay(flow.last + 1, "ice:candidate", "t", b"{}", False, 0.0, starts=starts), 0.0
        )

    assert [put(), put(), put(starts=True), put()] == ["0s", "0f", "0s", "0f"]
    flow.acknowledge(flow.last, 0, 0.0)
    assert put() == "0", "the one before it is acknowledged, and kept yet"
    assert flow.previous is not None
    box.void(flow.previous)
    assert put() == "0fs"


def test_ready_is_who_raises_no_question(
    box: SendBuffer, flow: SendWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert box.ready("s", "c", 2) is flow and box.ready("s", "d", 2) is None
    flow.last += WINDOW - 1
    assert box.ready("s", "c", 2) is flow
    flow.last += 1
    assert box.ready("s", "c", 2) is None, "its client may have to wait"
    flow.acked = flow.last
    assert box.ready("s", "c", BYTES_MAX // 2) is flow and box.ready("s", "c", BYTES_MAX // 2 + 1) is None
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 2)
    add(box, flow)
    assert box.ready("s", "c", 2) is None, "half full"


def test_only_flows_that_wait_are_looked_at_all_the_time(box: SendBuffer, flow: SendWindow) -> None:
    other = box.open("s", "d", 500, 0.0)
    assert box.waiting(0.0) == [], "nothing is in them yet"
    add(box, flow)
    add(box, other)
    assert box.waiting(0.0) == [flow, other]
    flow.acknowledge(flow.last, 0, 0.0)
    assert box.waiting(0.0) == [other] and list(box) == [flow, other]
    add(box, flow)
    assert box.waiting(0.0) == [other, flow]
    for each in (flow, other):
        each.acknowledge(each.last, 0, 0.0)
    assert box.waiting(0.0) == []
    box.doubt(flow)
    assert box.waiting(0.0) == [flow]


def test_the_others_are_forgotten_in_their_time(box: SendBuffer, flow: SendWindow) -> None:
    add(box, flow)
    unused = box.open("s", "d", 500, 0.0)
    flow.acknowledge(flow.last, 0, 0.0)
    now, looked = 0.0, []
    while list(box) and now < 60:
        looked.append((now, len(box.waiting(now))))
        box.tidy(now)
        assert now < KEEP_SECONDS or box.get("s", "d") is not unused
        now += 0.25
    assert KEEP_SECONDS <= looked[-1][0] <= 3 * KEEP_SECONDS and not any(count for _, count in looked)
    assert box.count == 0 and not box.of("s")


def test_a_flow_that_is_given_up_is_not_forgotten_twice(box: SendBuffer, flow: SendWindow) -> None:
    add(box, flow)
    flow.acknowledge(flow.last, 0, 0.0)
    assert box.waiting(0.0) == []
    add(box, flow, 0.0)
    assert box.give_up(flow, GIVE_UP_SECONDS + 1)
    for now in (11.0, 14.0):
        box.trim(flow, now)
        if not list(box):
            break
    assert not list(box) and box.waiting(15.0) == []
    again = box.open("s", "c", 900, 15.0)
    add(box, again, 15.0)
    box.tidy(16.0)
    assert list(box) == [again] and box.waiting(16.0) == [again]


def test_doubt_brings_back_what_is_kept(box: SendBuffer, flow: SendWindow) -> None:
    for _ in range(3):
        add(box, flow)
    flow.acknowledge(103, 0, 0.0)
    box.trim(flow, KEEP_SECONDS - 0.1)
    flow.doubt()
    assert numbers(flow) == [101, 102, 103] and flow.behind and flow.doubted == 103


def test_what_is_acknowledged_is_kept_for_a_while_and_then_all_is_forgotten(
    box: SendBuffer, flow: SendWindow
) -> None:
    add(box, flow)
    flow.acknowledge(101, 0, 0.0)
    box.trim(flow, KEEP_SECONDS)
    assert box.count == 1, "it was not acknowledged that long ago when it was looked at last"
    box.trim(flow, 2 * KEEP_SECONDS)
    assert (box.count, box.size, list(box), box.of("s")) == (0, 0, [], [])


def test_sent_again_when_no_acknowledgement_comes(box: SendBuffer, flow: SendWindow) -> None:
    add(box, flow, 5.0)
    assert not flow.stalled(5.0 + RESEND_SECONDS - 0.1)
    assert flow.stalled(5.0 + RESEND_SECONDS)
    flow.begin(7.0)
    assert not flow.stalled(7.0 + RESEND_SECONDS - 0.1)
    flow.acknowledge(101, 1, 7.0)
    assert not flow.stalled(99.0)


def test_sent_again_when_it_is_asked_for_but_not_all_the_time(box: SendBuffer, flow: SendWindow) -> None:
    add(box, flow)
    flow.begin(1.0)
    flow.missed = True
    assert not flow.stalled(1.0 + AGAIN_SECONDS / 2)
    assert flow.stalled(1.0 + AGAIN_SECONDS)


def test_given_up(box: SendBuffer, flow: SendWindow) -> None:
    old, void, young = add(box, flow, 0.0), add(box, flow, 0.0), add(box, flow, 5.0)
    box.void(void)
    assert box.give_up(flow, GIVE_UP_SECONDS) == []
    assert box.give_up(flow, GIVE_UP_SECONDS + 1) == [old], "whoever sent the void one knows"
    assert numbers(flow) == [young.number] and box.size == len(young.payload)
    assert flow.marks(young, flow.after(flow.acked)[0][0], follows=False) == "0s"


def test_nobody_is_told_that_something_was_given_up_that_was_acknowledged(
    box: SendBuffer, flow: SendWindow
) -> None:
    add(box, flow)
    flow.acknowledge(101, 0, 1.0)
    flow.doubt()
    assert box.give_up(flow, GIVE_UP_SECONDS + 1) == [] and not flow.waiting


@pytest.mark.parametrize(("limit", "value"), [("RELAYS_MAX", 6), ("BYTES_MAX", 60), ("FLOW_MAX", 3)])
def test_full(
    box: SendBuffer, flow: SendWindow, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(send_buffer, limit, value)
    for _ in range(3):
        add(box, flow, payload=b"0123456789")
    with pytest.raises(Unavailable):
        add(box, flow, payload=b"0123456789")
    flow.acknowledge(101, 0, 0.0)
    add(box, flow, payload=b"0123456789")
    with pytest.raises(Unavailable):
        add(box, flow, payload=b"0123456789")


def test_a_relay_is_found_by_its_number(box: SendBuffer, flow: SendWindow) -> None:
    other = box.open("s", "d", 500, 0.0)
    add(box, flow)
    add(box, other)
    assert box.find("s", 101) is flow and box.find("s", 500) is other
    assert box.find("s", 102) is None and box.find("t", 101) is None


def test_tails_are_bounded(flow: SendWindow) -> None:
    assert flow.tail("u", "b.ob", "call:offer") == "c.u.s.b=2Eob.call:offer"
    for n in range(100):
        flow.tail("u", f"p{n}", "call:offer")
    assert len(flow.tails) <= flows._TAILS_MAX


def test_who_fills_the_outbox_leaves_room_for_the_others() -> None:
    box, big = SendBuffer(), b"x" * 64_000
    sent = dict.fromkeys(range(60), 0)
    for _ in range(40):
        for n in sent:
            try:
                # Each time another call, so that it is not the calls that are bounded.
                flow = box.open(f"hostile-{n}", f"call-{sent[n]}", 1, 0.0)
                add(box, flow, payload=big)
                sent[n] += 1
            except Unavailable:
                pass
    assert min(sent.values()) > 0 and box.size <= BYTES_MAX
    calm = box.open("calm", "call", 1, 0.0)
    for _ in range(3):
        add(box, calm, payload=big)
    with pytest.raises(Unavailable):
        add(box, box.get("hostile-0", "call-0") or calm, payload=b"x" * BYTES_MAX)


def test_what_is_acknowledged_does_not_count_as_somebodys_share() -> None:
    box, big = SendBuffer(), b"x" * 64_000
    flow = box.open("one", "call", 1, 0.0)
    for _ in range(4 * BYTES_MAX // len(big)):
        add(box, flow, payload=big)
        flow.acked = flow.last
    assert box.size <= BYTES_MAX
