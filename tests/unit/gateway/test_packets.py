"""Reading what clients send: garbage raises the parser's own error and nothing else."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.protocol.packets import (
    ConnectPacket,
    DisconnectPacket,
    EventPacket,
    ForeignPacket,
    Malformed,
    check_frame,
    parse,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Texts made of what packets are made of come further than any texts.
ALMOST = st.text(alphabet='0123456789[]{}",:/-\\ud8eE.NaInfity ', max_size=60)
PREFIXED = st.builds(
    str.__add__, st.sampled_from(["2", "20[", '2["', "0", "0/", "1", "3", "5", "51-", "6"]), ALMOST
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=12,
)


@given(st.text() | ALMOST | PREFIXED)
def test_nothing_but_malformed_is_raised(text: str) -> None:
    for read in (check_frame, parse):
        with contextlib.suppress(Malformed):
            read(text)


@given(
    TEXT.filter(bool),
    st.lists(JSON, max_size=3),
    st.none() | st.integers(0, 10**15 - 1),
)
def test_an_event_reads_as_it_was_written(name: str, args: list[Any], ack: int | None) -> None:
    text = f"2{'' if ack is None else ack}{json.dumps([name, *args])}"
    check_frame(f"4{text}")
    assert parse(text) == EventPacket(name, args, ack)


@pytest.mark.parametrize(
    "text",
    [
        "", "2", "2[]", "2[1]", "2{}", '2"a"', '2["a"', "2[NaN]", '2["a",Infinity]', '2["a",1e999]',
        '2["a",' + "9" * 5_000 + "]", '2["a",' + "[" * 100_000, '2["a","\\ud800"]',
        '2' + "9" * 16 + '["a"]', '2-1["a"]', '2\u0663["a"]', '51-["a"]', "61-1[]", "4", "7", "x",
    ],
)  # fmt: skip
def test_packets_that_are_none(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text)


@pytest.mark.parametrize(
    "frame", ["", "4", "4x", '4{"a":1}', "47", "0", "7", "x", "bAAAA", "\x00", "4\u0663", "3x"]
)
def test_frames_that_are_none(frame: str) -> None:
    with pytest.raises(Malformed):
        check_frame(frame)


def test_the_acknowledgement_is_known_where_the_rest_is_garbage() -> None:
    with pytest.raises(Malformed) as raised:
        parse('27["a",NaN]')
    assert raised.value.ack_id == 7


def test_packets_of_other_namespaces_are_told_apart_by_what_they_want() -> None:
    assert (
        parse("0/admin,") == parse("0/admin") == parse("0/admin,{not json") == ForeignPacket("/admin", True)
    )
    assert parse("0/admin?x=1,{}") == ForeignPacket("/admin?x=1", True)
    for rest in ("1/admin,", '2/admin,["a"]', '2/admin,7["a"]', "3/admin,7[]", '51-/admin,["a"]', "2/admin"):
        assert parse(rest) == ForeignPacket("/admin", False)


def test_connecting_and_leaving() -> None:
    assert parse("0") == ConnectPacket()
    assert parse('0{"token":"x"}') == ConnectPacket()
    assert parse("0/?x=1,") == ConnectPacket()
    assert parse("1") == DisconnectPacket()
