"""Whose turn it is, and what gateways are told."""

import pytest

from services.callcore.relay import sequence_tracker as ledger
from services.callcore.relay.sequence_tracker import Ledger, Turn
from shared import subjects
from shared.contracts.relays import Acks
from shared.subjects import Receipt, receipt_of


def relay(number: int, marks: str = "0", *, more: int = 0, gateway: str = "g", session: str = "s") -> Receipt:
    return Receipt(gateway, session, number, marks, more)


def told(book: Ledger) -> list[tuple[str, Acks]]:
    return list(book.to_tell("cc"))


def pass_on(book: Ledger, *relays: Receipt) -> list[Turn]:
    turns = []
    for one in relays:
        turns.append(book.turn((one.session, "c"), one))
        if turns[-1] in (Turn.ITS, Turn.AGAIN):
            book.done((one.session, "c"), one)
    return turns


def test_each_in_turn_and_once() -> None:
    book = Ledger()
    assert pass_on(book, relay(7), relay(8, "0f"), relay(9, "0f")) == 3 * [Turn.ITS]
    assert pass_on(book, relay(8, "1"), relay(9, "1f")) == 2 * [Turn.OVER]
    assert pass_on(book, relay(20)) == [Turn.ITS], "what does not follow may come after a gap"


def test_before_its_turn() -> None:
    book = Ledger()
    assert pass_on(book, relay(7, "0f")) == [Turn.NOT_YET]
    assert told(book) == [("g", Acks(by="cc", gaps=(("s", "c"),)))]
    pass_on(book, relay(6, "1s"))
    assert pass_on(book, relay(8, "1f")) == [Turn.NOT_YET]


def test_again_is_passed_on_again_and_acknowledged_one_by_one() -> None:
    book = Ledger()
    pass_on(book, relay(7), relay(8, "0f"))
    told(book)
    assert pass_on(book, relay(7, "1sa")) == [Turn.AGAIN]
    assert told(book) == [("g", Acks(by="cc", done=(("s", "c", 7, 1),)))], "8 may be lost as well"


def test_one_that_has_come_twice_is_acknowledged_twice() -> None:
    book = Ledger()
    pass_on(book, relay(7))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 7, 0),)]
    assert not book and told(book) == []
    pass_on(book, relay(7, "1"))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 7, 1),)]


def test_alive_takes_nothing_back() -> None:
    book = Ledger()
    book.alive(("s", "c"), relay(7))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 0, 0),)]
    pass_on(book, relay(7))
    book.alive(("s", "c"), relay(8))
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 7, 0),)]


def test_what_another_instance_has_passed_on_is_not_passed_on_again() -> None:
    book = Ledger()
    book.known(("s", "c"), 7)
    assert pass_on(book, relay(6), relay(7), relay(8, "0f")) == [Turn.OVER, Turn.OVER, Turn.ITS]


def test_several_in_one_message_take_their_turn_together() -> None:
    book = Ledger()
    assert pass_on(book, relay(7, more=2), relay(10, "0f", more=1)) == 2 * [Turn.ITS]
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 11, 0),)]
    assert pass_on(book, relay(7, "1", more=4)) == [Turn.OVER]
    assert pass_on(book, relay(13, "1f", more=3)) == [Turn.NOT_YET]
    told(book)
    again = relay(10, "2", more=5)
    assert book.over(("s", "c"), again) == 2, "and four that have not been passed on"
    assert pass_on(book, again, relay(16, "2f")) == 2 * [Turn.ITS]
    assert [acks.done for _, acks in told(book)] == [(("s", "c", 16, 2),)]


def test_many_are_told_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "TOLD_AT_ONCE", 2)
    book = Ledger()
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
    monkeypatch.setattr(ledger, "FLOWS_MAX", 2)
    book = Ledger()
    for number, session in enumerate(("a", "b", "a", "c")):
        pass_on(book, relay(number, session=session))
    assert pass_on(book, relay(2, session="a"), relay(1, session="b")) == [Turn.OVER, Turn.ITS]


def test_a_ledger_has_something_to_tell_after_a_relay_and_after_a_gap() -> None:
    receipt = receipt_of(subjects.receipt("gw", "s", 7, "0s"))
    for note in (Ledger.done, Ledger.missed):
        ledger = Ledger()
        assert not ledger
        note(ledger, ("s", "c"), receipt)
        assert ledger
        assert [gateway for gateway, _ in ledger.to_tell("cc")] == ["gw"]
        assert not ledger


def test_what_another_instance_has_passed_on_does_not_take_a_number_back() -> None:
    ledger = Ledger()
    for number, last in ((0, 0), (5, 5), (3, 5), (9, 9)):
        ledger.known(("s", "c"), number)
        assert ledger._last["s", "c"] == last
