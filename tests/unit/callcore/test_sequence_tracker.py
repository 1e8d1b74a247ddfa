"""Sequence numbers: which relay is next, and what gateways are sent."""

from services.callcore.relay.sequence_tracker import SequenceCheck, SequenceTracker
from shared import subjects
from shared.contracts.relays import Acks
from shared.subjects import ReceiptSubject, parse_flags, receipt_of


def relay(
    number: int, flags: str = "0", *, more: int = 0, gateway: str = "g", session: str = "s"
) -> ReceiptSubject:
    return ReceiptSubject(gateway, session, number, *parse_flags(flags), more)


def acks_of(tracker: SequenceTracker) -> list[tuple[str, Acks]]:
    return list(tracker.take_acks("cc"))


def pass_on(tracker: SequenceTracker, *relays: ReceiptSubject) -> list[SequenceCheck]:
    checks = []
    for one in relays:
        checks.append(tracker.check((one.session, "c"), one))
        if checks[-1] in (SequenceCheck.NEXT, SequenceCheck.REPEAT):
            tracker.acknowledge((one.session, "c"), one)
    return checks


def test_each_relay_is_passed_on_in_order_and_once() -> None:
    tracker = SequenceTracker()
    assert pass_on(tracker, relay(7), relay(8, "0f"), relay(9, "0f")) == 3 * [SequenceCheck.NEXT]
    assert pass_on(tracker, relay(8, "1"), relay(9, "1f")) == 2 * [SequenceCheck.DUPLICATE]
    assert pass_on(tracker, relay(20)) == [SequenceCheck.NEXT], "what does not follow may come after a gap"


def test_a_relay_after_a_gap_is_dropped() -> None:
    tracker = SequenceTracker()
    assert pass_on(tracker, relay(7, "0f")) == [SequenceCheck.GAP]
    assert acks_of(tracker) == [("g", Acks(by="cc", gaps=(("s", "c"),)))]
    pass_on(tracker, relay(6, "1s"))
    assert pass_on(tracker, relay(8, "1f")) == [SequenceCheck.GAP]


def test_a_repeated_relay_is_passed_on_again_and_acknowledged_one_by_one() -> None:
    tracker = SequenceTracker()
    pass_on(tracker, relay(7), relay(8, "0f"))
    acks_of(tracker)
    assert pass_on(tracker, relay(7, "1sa")) == [SequenceCheck.REPEAT]
    assert acks_of(tracker) == [("g", Acks(by="cc", done=(("s", "c", 7, 1),)))], "8 may be lost as well"


def test_a_duplicate_is_acknowledged_again() -> None:
    tracker = SequenceTracker()
    pass_on(tracker, relay(7))
    assert [acks.done for _, acks in acks_of(tracker)] == [(("s", "c", 7, 0),)]
    assert not tracker and acks_of(tracker) == []
    pass_on(tracker, relay(7, "1"))
    assert [acks.done for _, acks in acks_of(tracker)] == [(("s", "c", 7, 1),)]


def test_a_progress_report_takes_no_acknowledgement_back() -> None:
    tracker = SequenceTracker()
    tracker.report_progress(("s", "c"), relay(7))
    assert [acks.done for _, acks in acks_of(tracker)] == [(("s", "c", 0, 0),)]
    pass_on(tracker, relay(7))
    tracker.report_progress(("s", "c"), relay(8))
    assert [acks.done for _, acks in acks_of(tracker)] == [(("s", "c", 7, 0),)]


def test_what_another_instance_has_passed_on_is_not_passed_on_again() -> None:
    tracker = SequenceTracker()
    tracker.mark_passed_on(("s", "c"), 7)
    assert pass_on(tracker, relay(6), relay(7), relay(8, "0f")) == [
        SequenceCheck.DUPLICATE,
        SequenceCheck.DUPLICATE,
        SequenceCheck.NEXT,
    ]


def test_the_relays_of_one_message_are_checked_together() -> None:
    tracker = SequenceTracker()
    assert pass_on(tracker, relay(7, more=2), relay(10, "0f", more=1)) == 2 * [SequenceCheck.NEXT]
    assert [acks.done for _, acks in acks_of(tracker)] == [(("s", "c", 11, 0),)]
    assert pass_on(tracker, relay(7, "1", more=4)) == [SequenceCheck.DUPLICATE]
    assert pass_on(tracker, relay(13, "1f", more=3)) == [SequenceCheck.GAP]
    acks_of(tracker)
    again = relay(10, "2", more=5)
    assert tracker.count_passed_on(("s", "c"), again) == 2, "and four that have not been passed on"
    assert pass_on(tracker, again, relay(16, "2f")) == 2 * [SequenceCheck.NEXT]
    assert [acks.done for _, acks in acks_of(tracker)] == [(("s", "c", 16, 2),)]


def test_many_acknowledgements_take_several_messages() -> None:
    tracker = SequenceTracker(entries_max=2)
    for n in range(5):
        pass_on(tracker, relay(1, session=f"s{n}"))
    pass_on(tracker, relay(3, "0f", session="gap"), relay(1, gateway="other"))
    messages = acks_of(tracker)
    assert [(to, len(acks.done), len(acks.gaps)) for to, acks in messages] == [
        ("g", 2, 1),
        ("g", 2, 0),
        ("g", 1, 0),
        ("other", 1, 0),
    ]


def test_sessions_idle_for_longest_are_dropped() -> None:
    tracker = SequenceTracker(flows_max=2)
    for number, session in enumerate(("a", "b", "a", "c")):
        pass_on(tracker, relay(number, session=session))
    assert pass_on(tracker, relay(2, session="a"), relay(1, session="b")) == [
        SequenceCheck.DUPLICATE,
        SequenceCheck.NEXT,
    ]


def test_there_is_something_to_send_after_a_relay_and_after_a_gap() -> None:
    receipt = receipt_of(subjects.receipt("gw", "s", 7, 0, subjects.STARTS))
    for note in (SequenceTracker.acknowledge, SequenceTracker.request_retransmission):
        sequence_tracker = SequenceTracker()
        assert not sequence_tracker
        note(sequence_tracker, ("s", "c"), receipt)
        assert sequence_tracker
        assert [gateway for gateway, _ in sequence_tracker.take_acks("cc")] == ["gw"]
        assert not sequence_tracker


def test_what_another_instance_has_passed_on_does_not_take_a_number_back() -> None:
    sequence_tracker = SequenceTracker()
    for number, last in ((0, 0), (5, 5), (3, 5), (9, 9)):
        sequence_tracker.mark_passed_on(("s", "c"), number)
        assert sequence_tracker._last["s", "c"] == last
