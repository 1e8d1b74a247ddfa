"""Foreign ids in subjects and keys: nothing gets through that NATS reads as its own, and nothing gets mixed up."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import subjects
from shared.ids import decode, encode, new_id

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=128)
TOKEN = re.compile(r"[A-Za-z0-9_=-]+")


@given(texts)
def test_every_text_is_one_token_and_comes_back(text: str) -> None:
    token = encode(text)
    assert TOKEN.fullmatch(token)
    assert decode(token) == text


@given(texts, texts)
def test_different_texts_are_different_tokens(a: str, b: str) -> None:
    assert (encode(a) == encode(b)) == (a == b)


@pytest.mark.parametrize("name", ["user123", "a-b_C"])
def test_readable_ids_stay_readable(name: str) -> None:
    assert encode(name) == name


@pytest.mark.parametrize("token", ["=2", "=ZZ", "a.b", "=61", "=FF", "é"])
def test_what_encode_never_makes_is_refused(token: str) -> None:
    with pytest.raises(ValueError):
        decode(token)


def test_minted_ids_are_tokens_of_128_bits() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(encode(id_) == id_ and len(id_) == 22 for id_ in ids)


@given(call=texts, user=texts, to=texts)
def test_a_relay_subject_has_seven_tokens_whatever_the_ids(call: str, user: str, to: str) -> None:
    parsed = subjects.parse_relay(subjects.relay("cc-1", call, user, "s1", to, "ice:candidate"))
    assert (parsed.callcore, decode(parsed.call), decode(parsed.user)) == ("cc-1", call, user)
    assert (parsed.session, decode(parsed.to), parsed.kind) == ("s1", to, "ice:candidate")


def test_the_longest_ids_fit_the_default_control_line() -> None:
    user = "😀" * 128
    subject = subjects.relay("x" * 40, new_id(), user, new_id(), user, "ice:candidate")
    reply = subjects.receipt("x" * 40, new_id(), 10**9)
    assert len(subject) + len(reply) + 30 < 4096


def test_what_is_built_is_parsed() -> None:
    assert subjects.parse_deliver(subjects.deliver("gw", "s", "call:ended")) == ("s", "call:ended")
    assert subjects.parse_receipt(subjects.receipt("gw", "s", 7)) == ("s", 7)
    assert subjects.parse_control(subjects.control("gw", "s", "replaced")) == ("s", "replaced")
    assert subjects.parse_deadline(subjects.deadline_due("ring", "c")) == ("ring", "c")
    assert subjects.parse_live(subjects.live("callcore", "cc")) == ("callcore", "cc")
    assert subjects.parse_key(subjects.key_user("a.b")) == ("user", "a.b")


def test_every_subject_is_documented() -> None:
    documented = {re.sub(r"[.>*].*", "", row.pattern) for row in subjects.TABLE} | {"$KV"}
    built = [
        subjects.rpc("calls", "end"),
        subjects.relay("c", "c", "u", "s", "t", "k"),
        subjects.receipt("g", "s", 1),
        subjects.deliver("g", "s", "e"),
        subjects.control("g", "s", "w"),
        subjects.event_call("c", "w"),
        subjects.event_user("u", "w"),
        subjects.deadline_set("k", "i"),
        subjects.live("s", "i"),
        subjects.ROLLCALL,
    ]
    assert {subject.split(".")[0] for subject in built} <= documented
