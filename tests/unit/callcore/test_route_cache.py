"""The route cache: which states it takes, which it drops, and its bounds."""

from services.callcore.relay.route_cache import FRESH_SECONDS, Route, RouteCache, targets_of
from services.callcore.state.model import Call
from shared.ids import encode
from shared.messaging.mailbox import MailboxMessage
from tests.unit.callcore.calls import ALICE, BOB, BOB_TAB, accepted, ended, ringing

NOW = 100.0


def test_a_late_announcement_does_not_bring_an_older_state_back() -> None:
    cache = RouteCache()
    now = cache.update(accepted(), 7, NOW, [])
    assert cache.update(ringing(), 6, NOW, []) is now
    found = cache.get("c1")
    assert found is not None and found.call == accepted()


def test_a_late_announcement_does_not_revive_a_call_that_has_ended() -> None:
    """It would have relays passed on into a dead call until it is read again."""
    cache = RouteCache()
    cache.update(accepted(), 7, NOW, [])
    cache.update(ended(), 8, NOW, [])
    assert cache.update(accepted(), 7, NOW, []) is None
    assert cache.get("c1") is None


def test_a_late_announcement_does_not_revive_a_call_whose_end_is_the_first_state_received() -> None:
    cache = RouteCache()
    cache.update(ended(), 8, NOW, [])
    assert cache.update(accepted(), 7, NOW, []) is None
    assert cache.get("c1") is None


def test_a_late_end_does_not_replace_a_newer_state() -> None:
    cache = RouteCache()
    cache.update(accepted(), 7, NOW, [])
    assert cache.update(ended(), 6, NOW, []) is not None
    assert cache.get("c1") is not None


def test_ended_calls_are_kept_within_bounds() -> None:
    cache = RouteCache(ended_max=2)
    for n in range(4):
        cache.update(_as(ended(), f"c{n}"), 8, NOW, [])
    revived = [cache.update(_as(accepted(), f"c{n}"), 7, NOW, []) is not None for n in range(4)]
    assert revived == [True, True, False, False], "those that ended last are kept"


def test_a_state_keeps_the_cached_call_fresh_for_a_while() -> None:
    cache = RouteCache()
    found = cache.update(accepted(), 7, NOW, [])
    assert found is not None and found.fresh_until == NOW + FRESH_SECONDS
    cache.extend(found, NOW + 3)
    assert found.fresh_until == NOW + 3 + FRESH_SECONDS


def test_early_media_belongs_to_a_ringing_call_only() -> None:
    early = [MailboxMessage("call:offer", b"12345"), MailboxMessage("ice:candidate", b"123")]
    cache = RouteCache()
    rings = cache.update(ringing(), 7, NOW, early)
    assert rings is not None and (rings.early, rings.early_bytes) == (early, 8)
    up = cache.update(accepted(), 8, NOW, early)
    assert up is not None and (up.early, up.early_bytes) == ([], 0)


def test_the_least_recently_updated_call_is_dropped_first() -> None:
    cache = RouteCache(calls_max=2)
    for name in ("c1", "c2", "c1", "c3"):
        cache.update(_as(accepted(), name), 7, NOW, [])
    assert len(cache) == 2
    assert [cache.get(name) is not None for name in ("c1", "c2", "c3")] == [True, False, True]


def test_a_route_is_dropped_with_the_state_that_it_was_opened_for() -> None:
    cache = RouteCache(calls_max=1)

    def open_() -> None:
        found = cache.get("c1") or cache.update(accepted(), 7, NOW, [])
        assert found is not None
        route = Route(found, ("s", "c1"), (BOB,))
        assert cache.open_route("relay.x", route) is route and cache.routes.get("relay.x") is route

    open_()
    cache.close_routes("c1")
    assert cache.routes.get("relay.x") is None and cache.get("c1") is not None
    open_()
    cache.update(accepted(), 8, NOW, [])
    assert cache.routes.get("relay.x") is None
    open_()
    cache.update(_as(accepted(), "c2"), 7, NOW, [])
    assert cache.routes.get("relay.x") is None, "its call is dropped"
    cache.close_routes("c1")  # which is not cached
    open_()
    cache.update(ended(), 9, NOW, [])
    assert cache.routes.get("relay.x") is None


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
