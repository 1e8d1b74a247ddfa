"""What an instance learns of calls, and what it does not believe any more."""

import pytest

from services.callcore.relay import route_cache
from services.callcore.relay.route_cache import Route, RouteCache, targets_of
from services.callcore.state.model import Call
from shared.ids import encode
from shared.messaging.mailbox import MailboxMessage
from tests.unit.callcore.calls import ALICE, BOB, BOB_TAB, accepted, ended, ringing

NOW = 100.0


def test_a_late_announcement_does_not_bring_an_older_state_back() -> None:
    known = RouteCache()
    now = known.learn(accepted(), 7, NOW, [])
    assert known.learn(ringing(), 6, NOW, []) is now
    found = known.get("c1")
    assert found is not None and found.call == accepted()


def test_a_late_announcement_does_not_revive_a_call_that_has_ended() -> None:
    """It would have relays passed on into a dead call until it is read again."""
    known = RouteCache()
    known.learn(accepted(), 7, NOW, [])
    known.learn(ended(), 8, NOW, [])
    assert known.learn(accepted(), 7, NOW, []) is None
    assert known.get("c1") is None


def test_a_late_announcement_does_not_revive_a_call_whose_end_is_the_first_that_is_heard_of_it() -> None:
    known = RouteCache()
    known.learn(ended(), 8, NOW, [])
    assert known.learn(accepted(), 7, NOW, []) is None
    assert known.get("c1") is None


def test_a_late_end_does_not_take_a_newer_state() -> None:
    known = RouteCache()
    known.learn(accepted(), 7, NOW, [])
    assert known.learn(ended(), 6, NOW, []) is not None
    assert known.get("c1") is not None


def test_ended_calls_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_cache, "ENDED_MAX", 2)
    known = RouteCache()
    for n in range(4):
        known.learn(_as(ended(), f"c{n}"), 8, NOW, [])
    revived = [known.learn(_as(accepted(), f"c{n}"), 7, NOW, []) is not None for n in range(4)]
    assert revived == [True, True, False, False], "those that ended last are remembered"


def test_a_state_keeps_the_lane_warm_for_a_while() -> None:
    known = RouteCache()
    found = known.learn(accepted(), 7, NOW, [])
    assert found is not None and found.warm_until == NOW + route_cache.WARM_SECONDS
    found.stay_warm(NOW + 3)
    assert found.warm_until == NOW + 3 + route_cache.WARM_SECONDS


def test_early_media_belongs_to_a_ringing_call_only() -> None:
    early = [MailboxMessage("call:offer", b"12345"), MailboxMessage("ice:candidate", b"123")]
    known = RouteCache()
    rings = known.learn(ringing(), 7, NOW, early)
    assert rings is not None and (rings.early, rings.early_bytes) == (early, 8)
    up = known.learn(accepted(), 8, NOW, early)
    assert up is not None and (up.early, up.early_bytes) == ([], 0)


def test_what_was_heard_of_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_cache, "LANES_MAX", 2)
    known = RouteCache()
    for name in ("c1", "c2", "c1", "c3"):
        known.learn(_as(accepted(), name), 7, NOW, [])
    assert len(known) == 2
    assert [known.get(name) is not None for name in ("c1", "c2", "c3")] == [True, False, True]


def test_routes_go_with_what_they_were_found_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_cache, "LANES_MAX", 1)
    known = RouteCache()

    def open_() -> None:
        found = known.get("c1") or known.learn(accepted(), 7, NOW, [])
        assert found is not None
        route = Route(found, ("s", "c1"), (BOB,))
        assert known.open("relay.x", route) is route and known.route("relay.x") is route

    open_()
    known.close("c1")
    assert known.route("relay.x") is None and known.get("c1") is not None
    open_()
    known.learn(accepted(), 8, NOW, [])
    assert known.route("relay.x") is None
    open_()
    known.learn(_as(accepted(), "c2"), 7, NOW, [])
    assert known.route("relay.x") is None, "its lane is forgotten"
    known.close("c1")  # of which nothing is known
    open_()
    known.learn(ended(), 9, NOW, [])
    assert known.route("relay.x") is None


def test_targets_are_those_of_the_table() -> None:
    alice, bob = encode("alice"), encode("bob")
    assert targets_of(accepted(), alice, ALICE.session, bob) == (BOB,)
    assert targets_of(accepted(), bob, BOB.session, alice) == (ALICE,)
    assert targets_of(ringing(), alice, ALICE.session, bob) == (BOB, BOB_TAB)
    assert targets_of(accepted(), bob, BOB_TAB.session, alice) == (), "another device"
    assert targets_of(accepted(), alice, ALICE.session, encode("eve")) == (), "another peer"
    assert targets_of(ended(), alice, ALICE.session, bob) == ()


def _as(call: Call, name: str) -> Call:
    return call.model_copy(update={"call": name})
