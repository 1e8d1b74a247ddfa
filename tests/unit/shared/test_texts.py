"""Subjects, keys, ids, errors and stamps, character by character."""

import re

import pytest
from pydantic import ValidationError

from shared import subjects
from shared.contracts.calls import Reservation
from shared.contracts.client import Join
from shared.contracts.relays import apart, stamp, stamped, without_first
from shared.contracts.wire import json_size
from shared.errors import CallNotFound, SignallingError, Unavailable
from shared.ids import could_be_minted, encode, new_id, random_tokens
from shared.subjects import FOLLOWS, REDELIVER, STARTS, RelayFlags


def test_subjects_and_keys_are_what_permissions_and_other_tools_expect() -> None:
    assert subjects.settled("s") == "deliver.-.s.settled"
    assert subjects.alive("gw") == "control.gw.-.alive"
    assert subjects.key_rings("caller", "a b") == "caller.a=20b"
    key = subjects.key_at("gw", "s", "a b")
    assert key == "at.gw.s.a=20b" and subjects.parse_key_at(key) == ("s", "a b")
    assert subjects.verb_of("rpc.calls.happen.cc-1") == "rpc.calls.happen"
    assert subjects.verb_of("rpc.calls.end") == "rpc.calls.end"
    assert subjects.is_rpc("rpc.calls.end") and not subjects.is_rpc("relay.rpc.x")


@pytest.mark.parametrize(("flags", "wanted"), [("0w", True), ("0fsw", True), ("0f", False), ("0", False)])
def test_a_receipt_is_wanted_by_its_flags_alone(flags: str, wanted: bool) -> None:
    reply = subjects.receipt("gw-w", "s-w", 7, *subjects.parse_flags(flags))
    assert reply == f"receipt.gw-w.s-w.7-{flags}"
    assert subjects.receipt_wanted(reply) is wanted
    assert subjects.receipt_of(reply) == ("gw-w", "s-w", 7, *subjects.parse_flags(flags), 0)
    assert subjects.receipt_of(reply).flags_text == flags


@pytest.mark.parametrize("attempt", range(10))
def test_flags_come_back_as_they_were(attempt: int) -> None:
    every = sum(RelayFlags)
    for flags in range(every + 1):
        reply = subjects.receipt("gw", "s", 7, attempt, flags)
        receipt = subjects.receipt_of(reply)
        assert (receipt.attempt, receipt.flags) == (attempt, flags)
        if not flags & RelayFlags.DELIVERY:
            delivery = subjects.receipt_of(reply + subjects.DELIVERY_LETTER)
            assert (delivery.attempt, delivery.flags) == (attempt, flags | RelayFlags.DELIVERY)


def test_flags_of_a_newer_version_are_ignored() -> None:
    assert subjects.parse_flags("3fz") == (3, RelayFlags.FOLLOWS)
    assert subjects.parse_flags("3lf") == (3, RelayFlags.FOLLOWS | RelayFlags.DELIVERY), "in any order"


@pytest.mark.parametrize("text", ["", "f", "-1", "x0"])
def test_flags_without_an_attempt_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        subjects.parse_flags(text)


@pytest.mark.parametrize(
    ("text", "could"), [("a" * 64, True), ("a" * 65, False), ("", False), ("a b", False), ("a.b", False)]
)
def test_what_could_be_minted(text: str, could: bool) -> None:
    assert could_be_minted(text) is could and could_be_minted(new_id())


def test_minted_ids_use_all_letters() -> None:
    letters = set("".join(new_id() for _ in range(2_000)))
    assert len(letters) == 64 and all(encode(letter) == letter for letter in letters)


def test_an_error_comes_back_as_it_was() -> None:
    error = SignallingError.from_wire(CallNotFound(call_id="c1").to_wire())
    assert isinstance(error, CallNotFound) and error.call_id == "c1"
    assert isinstance(SignallingError.from_wire({}), Unavailable), "of a service that is newer"


def test_a_stamp_comes_off_as_it_went_on() -> None:
    assert stamp(b'{"a":1}', "s.x", 7) == b'{"a":1,"relay":"s.x.7"}'
    assert stamped(b'{"a":1,"relay":"s.x.7"}') == ("s.x", 7, b'{"a":1}')
    assert stamped(b'{"a":1,"relay":"s.7","seq":9}') == ("s", 7, b'{"a":1,"seq":9}')
    assert stamped(b'{"a":1}') is None


def test_several_in_one_message_come_apart() -> None:
    reply = subjects.receipt("gw", "s", 7, 1, STARTS | REDELIVER, 2)
    assert list(apart(reply, b"a\nb\nc")) == [
        (subjects.receipt("gw", "s", 7, 1, STARTS | REDELIVER), b"a"),
        (subjects.receipt("gw", "s", 8, 1, FOLLOWS), b"b"),
        (subjects.receipt("gw", "s", 9, 1, FOLLOWS), b"c"),
    ]
    alone = subjects.receipt("gw", "s", 7, 1, STARTS | REDELIVER)
    assert list(apart(alone, b"a")) == [(alone, b"a")]
    assert without_first(reply, b"a\nb\nc", 1) == (subjects.receipt("gw", "s", 8, 1, FOLLOWS, 1), b"b\nc")


def test_what_is_absent_is_left_out() -> None:
    assert Reservation(call="c", peer="p", since=1).dump() == b'{"call":"c","peer":"p","since":1}'
    assert b"null" not in Join(user_id="ann").dump()


@pytest.mark.parametrize("text", ["a\x00", "a\x7f", "a\x85", "a\nb"])
def test_control_characters_are_refused_by_name(text: str) -> None:
    with pytest.raises(
        ValidationError, match=re.escape("must not contain control characters or lone surrogates")
    ):
        Join(user_id=text)


@pytest.mark.parametrize("text", ["a", "ä😀", "a b", "\u200b", "\u00a0"])
def test_all_other_characters_are_taken(text: str) -> None:
    assert Join(user_id=text).user_id == text


def test_the_size_of_json_is_that_of_its_bytes() -> None:
    assert json_size({"a": ["ä", 1]}) == len('{"a":["ä",1]}'.encode())
    assert json_size("\ud800") == 5


def test_who_answers_a_request_is_known_by_its_subject() -> None:
    assert subjects.zone_of("$JS.API.STREAM.INFO.X") == subjects.ZONE_NATS
    assert subjects.zone_of("$KV.calls.user.ann") == subjects.ZONE_NATS
    assert subjects.zone_of("deadline.set.ring.c") == subjects.ZONE_NATS
    assert subjects.zone_of("control.gw.-.alive") == "gateway"
    assert subjects.zone_of("rpc.presence.join") == "presence"
    assert subjects.zone_of("rpc.calls.happen.cc-1") == "callcore"


def test_keys_of_rings_are_one_token() -> None:
    assert subjects.key_pair("a b", "bob") == "pair.a=20b=0Abob"
    assert subjects.key_user_all() == "user.*"


def test_random_tokens_are_whole_and_all_different() -> None:
    tokens = random_tokens()
    found = [next(tokens) for _ in range(1_000)]
    assert len(set(found)) == 1_000
    assert all(re.fullmatch("[0-9a-f]{16}", token) for token in found)


def test_the_reason_why_something_is_unavailable_is_not_for_clients() -> None:
    wire = Unavailable("stream DELIVER: no leader").to_wire()
    assert wire == {"code": "unavailable", "message": "Temporarily unavailable", "retryable": True}
