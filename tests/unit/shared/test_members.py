"""Rendezvous hashing: everyone who sees the same instances agrees, and a change moves only what it must."""

from collections import Counter
from itertools import pairwise

from shared.bus import Bus
from shared.clock import SeqClock
from shared.members import Members


def members(*names: str) -> Members:
    found = Members(Bus.__new__(Bus), "callcore")
    found._lists["callcore"] = names
    return found


def test_the_order_of_names_does_not_matter() -> None:
    one, other = members("a", "b", "c"), members("c", "a", "b")
    assert all(one.owner("callcore", f"call{i}") == other.owner("callcore", f"call{i}") for i in range(200))


def test_nobody_there_is_nobody_in_charge() -> None:
    assert members().owner("callcore", "call") is None


def test_an_instance_that_goes_moves_only_its_own_calls() -> None:
    before, after = members("a", "b", "c"), members("a", "c")
    for i in range(500):
        owner = before.owner("callcore", f"call{i}")
        assert owner == "b" or after.owner("callcore", f"call{i}") == owner


def test_calls_are_spread_evenly() -> None:
    found = members("a", "b", "c", "d")
    share = Counter(found.owner("callcore", f"call{i}") for i in range(4000))
    assert all(850 < count < 1150 for count in share.values())


def test_seq_only_grows() -> None:
    clock = SeqClock()
    minted = [clock.next() for _ in range(10_000)]
    assert all(a < b for a, b in pairwise(minted))
