"""What is written to a socket of the relays that come for it."""

import pytest

from services.gateway.clients.registry import Socket
from services.gateway.clients.relay_positions import SENDERS_MAX
from services.gateway.relay.receive_order import ReceiveOrder
from shared.contracts.relays import stamp
from shared.subjects import parse_flags, receipt


class Receiver:
    def __init__(self) -> None:
        self.heard = ReceiveOrder()
        self.socket = Socket("sid", "eio")
        self.seq = 0

    def take(self, number: int, flags: str | None = "0f", session: str = "s") -> bytes | None:
        self.seq += 1
        letter = b'%b,"seq":%d}' % (stamp(b'{"n":1}', session, number)[:-1], self.seq)
        reply = receipt("g", session, number, *parse_flags(flags)) if flags is not None else ""
        return self.heard.take(self.socket, "ice:candidate", letter, reply)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_in_order_and_without_the_stamp(receiver: Receiver) -> None:
    assert receiver.take(5, "0s") == b'{"n":1,"seq":1}'
    assert receiver.take(6) == b'{"n":1,"seq":2}'
    assert not receiver.heard.take_missed()


def test_once(receiver: Receiver) -> None:
    assert receiver.take(5, "0s") and receiver.take(6)
    for number, flags in ((6, "1fa"), (5, "1sa"), (5, None)):
        assert receiver.take(number, flags) == b""
    assert receiver.take(7)


@pytest.mark.parametrize("flags", ["0", "0f", "3fa"])
def test_not_before_what_is_missed(receiver: Receiver, flags: str) -> None:
    assert receiver.take(5, "0s")
    assert receiver.take(7, flags) is None
    assert receiver.heard.take_missed() == {"g": {"s"}} and not receiver.heard.take_missed()
    assert receiver.take(6) and receiver.take(7)


def test_a_start_waits_for_nothing(receiver: Receiver) -> None:
    assert receiver.take(5, "0s") and receiver.take(9, "0s")


def test_the_first_of_a_sender_is_missed_too(receiver: Receiver) -> None:
    assert receiver.take(6) is None and receiver.heard.take_missed() == {"g": {"s"}}
    assert receiver.take(5, "0s") and receiver.take(6)


def test_one_that_has_not_caught_up_begins_anywhere(receiver: Receiver) -> None:
    receiver.socket.caught_up = False
    assert receiver.take(6) and receiver.take(7)
    assert receiver.take(9) is None


def test_what_was_in_the_mailbox_counts(receiver: Receiver) -> None:
    assert receiver.take(5, None) and receiver.take(8, None)
    assert receiver.take(8) == b"" and receiver.take(9)


def test_senders_do_not_mix_and_are_bounded(receiver: Receiver) -> None:
    for n in range(SENDERS_MAX + 3):
        assert receiver.take(5, "0s", session=f"s{n}")
    assert receiver.take(5, "0s", session=f"s{SENDERS_MAX}") == b""
    assert len(receiver.socket.positions.senders) == SENDERS_MAX


def test_other_events_pass_with_a_seq_that_only_grows(receiver: Receiver) -> None:
    take = receiver.heard.take
    assert take(receiver.socket, "call:accepted", b'{"callId":"c","seq":10}') == b'{"callId":"c","seq":10}'
    assert take(receiver.socket, "call:ended", b'{"callId":"c","seq":9}') == b'{"callId":"c","seq":11}'
    assert (
        take(receiver.socket, "call:ended", b'{"a":{"relay":"s.1"},"seq":12}')
        == b'{"a":{"relay":"s.1"},"seq":12}'
    )
