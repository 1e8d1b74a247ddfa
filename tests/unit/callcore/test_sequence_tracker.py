"""Whose turn it is, and what gateways are told."""

import pytest

from services.callcore.relay import sequence_tracker as sequence_tracker
from services.callcore.relay.sequence_tracker import SequenceCheck, SequenceTracker
from shared import subjects
from shared.contracts.relays import Acks
from shared.subjects import ReceiptSubject, receipt_of


def relay(
    number: int, marks: str = "0", *, more: int = 0, gateway: str = "g", session: str = "s"
) -> ReceiptSubject:
    return ReceiptSubject(gateway, session, number, marks, more)


def told(book: SequenceTracker) -> list[tuple[str, Acks]]:
    return list(book.to_tell("cc"))


def pass_on(book: SequenceTracker, *relays: ReceiptSubject) -> list[SequenceCheck]:
    turns = []
    for one in relays:
        turns.append(book.turn((one.session, "c"), one))
        if turns[-1] in (SequenceCheck.ITS, SequenceCheck.AGAIN):
            book.done((one.session, "c"), one)
    return turns


def test_each_in_turn_and_once() -> None:
    book = SequenceTracker()
    assert pass_on(book, relay(7), relay(8, "0f"), relay(9, "0f")) == 3 * [SequenceCheck.ITS]
    assert pass_on(book, relay(8, "1"), relay(9, "1f")) == 2 * [SequenceCheck.OVER]
    assert pass_on(book, relay(20)) == [SequenceCheck.ITS], "what does not follow may come after a gap"


def test_before_its_turn() -> None:
    book = SequenceTracker()
    assert pass_on(book, relay(7, "0f")) == [SequenceCheck.NOT_YET]
    assert told(book) == [("g", Acks(by="cc", gaps=(("s", "c"),)))]
    pass_on(book, relay(6, "1s"))
    assert pass_on(book, relay(8, "1f")) == [SequenceCheck.NOT_YET]


def test_again_is_passed_on_again_and_acknowledged_one_by_one() -> None:
    book = SequenceTracker()
    pass_on(book, relay(7), relay(8, "0f"))
    told(book)
    assert pass_on(book, relay(7, "1sa")) == [SequenceCheck.AGAIN]
    assert told(book) == [("g", Acks(by="cc", done=(("s", "c", 7, 1),)))], "8 may be lost as well"


def test_one_that_has_come_twice_is_acknowledged_twice() -> None:
    book = SequenceTracker()
    pass_on(book, relay(7))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 7, 0),)]
    assert not book and told(book) == []
    pass_on(book, relay(7, "1"))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 7, 1),)]


def test_alive_takes_nothing_back() -> None:
    book = SequenceTracker()
    book.alive(("s", "c"), relay(7))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 0, 0),)]
    pass_on(book, relay(7))
    book.alive(("s", "c"), relay(8))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 7, 0),)]


def test_what_another_instance_has_passed_on_is_not_passed_on_again() -> None:
    book = SequenceTracker()
    book.known(("s", "c"), 7)
    assert pass_on(book, relay(6), relay(7), relay(8, "0f")) == [
        SequenceCheck.OVER,
        SequenceCheck.OVER,
        SequenceCheck.ITS,
    ]


def test_several_in_one_message_take_their_turn_together() -> None:
    book = SequenceTracker()
    assert pass_on(book, relay(7, more=2), relay(10, "0f", more=1)) == 2 * [SequenceCheck.ITS]
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 11, 0),)]
    assert pass_on(book, relay(7, "1", more=4)) == [SequenceCheck.OVER]
    assert pass_on(book, relay(13, "1f", more=3)) == [SequenceCheck.NOT_YET]
    told(book)
    again = relay(10, "2", more=5)
    assert book.over(("s", "c"), again) == 2, "and four that have not been passed on"
    assert pass_on(book, again, relay(16, "2f")) == 2 * [SequenceCheck.ITS]
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 16, 2),)]


def test_many_are_told_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_tracker, "TOLD_AT_ONCE", 2)
    book = SequenceTracker()
    for n in range(5):
        pass_on(book, relay(1, session=f"s{n}"))
    pass_on(book, relay(3, "0f", session="gap"), relay(1, gateway="other"))
    messages = told(book)
    assert [(to, len(acks.done), len(acks.gaps)) for to, acks in messages] == [
        ("g", 2, 1),
        ("g", 2, 0),
        ("g", 1, 0),
        ("other", 1, 0),
    ]


def test_sessions_idle_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_tracker, "FLOWS_MAX", 2)
    book = SequenceTracker()
    for number, session in enumerate(("a", "b", "a", "c")):
        pass_on(book, relay(number, session=session))
    assert pass_on(book, relay(2, session="a"), relay(1, session="b")) == [
        SequenceCheck.OVER,
        SequenceCheck.ITS,
    ]


def test_a_ledger_has_something_to_tell_after_a_relay_and_after_a_gap() -> None:
    receipt = receipt_of(subjects.receipt("gw", "s", 7, "0s"))
    for note in (SequenceTracker.done, SequenceTracker.missed):
        sequence_tracker = SequenceTracker()
        assert not sequence_tracker
        note(sequence_tracker, ("s", "c"), receipt)
        assert sequence_tracker
        assert [gateway for gateway, _ in sequence_tracker.to_tell("cc")] == ["gw"]
        assert not sequence_tracker


def test_what_another_instance_has_passed_on_does_not_take_a_number_back() -> None:
    sequence_tracker = SequenceTracker()
    for number, last in ((0, 0), (5, 5), (3, 5), (9, 9)):
        sequence_tracker.known(("s", "c"), number)
        assert sequence_tracker._last["s", "c"] == last
