"""What joins and leaves make of the sessions of a user."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.presence.model import (
    ALTERNATES_MAX,
    SPENT_MAX,
    Joined,
    Minted,
    SessionPolicy,
    Silent,
    expire,
    join,
    leave,
    lose,
    maybe_silent,
    maybe_unheard,
    reassert,
)
from services.presence.resume_tokens import hash_token
from shared.contracts.presence import JoinRequest, LeaveRequest, ReassertRequest, Session, Sessions
from shared.errors import RateLimited

MULTI = SessionPolicy(single=False, limit=3, grace_ms=30_000)
SINGLE = MULTI._replace(single=True)
NOW = 1_000_000


def session(name: str, *, device: str | None = None, gateway: str = "gw1") -> Session:
    """``name``'s socket is ``<name>-socket``, its resume token ``<name>-token``."""
    return Session(
        session=name,
        gateway=gateway,
        socket=f"{name}-socket",
        device=device,
        since=NOW,
        resume_token=hash_token(f"{name}-token"),
    )


def record(*sessions: Session) -> Sessions:
    return Sessions(user="alice", sessions=sessions)


def joins(
    before: Sessions | None,
    *,
    socket: str = "new-socket",
    gateway: str = "gw2",
    device: str | None = None,
    resume: tuple[str, str] | None = None,
    policy: SessionPolicy = MULTI,
    token: str = "new-token",
) -> Joined:
    request = JoinRequest(
        request_id="r",
        user="alice",
        gateway=gateway,
        socket=socket,
        device=device,
        resume_session=resume[0] if resume else None,
        resume_token=resume[1] if resume else None,
    )
    return join(before, request, policy, NOW + 1, Minted("new", token))


def names(sessions: Iterable[Session]) -> list[str]:
    return [s.session for s in sessions]


PHONE, TAB, WATCH = session("phone", device="d1"), session("tab"), session("watch", device="d3")


def test_the_first_join_makes_a_session() -> None:
    joined = joins(None, device="d1")
    assert joined.record == record(joined.session)
    assert joined.session == Session(
        session="new",
        gateway="gw2",
        socket="new-socket",
        device="d1",
        since=NOW + 1,
        resume_token=hash_token("new-token"),
    )
    assert joined.token == "new-token"
    assert (joined.resumed, joined.displaced, joined.gone) == (False, (), ())


def test_another_device_is_another_session() -> None:
    joined = joins(record(PHONE), device="d2")
    assert names(joined.record.sessions) == ["phone", "new"]
    assert joined.displaced == joined.gone == ()


def test_two_joins_without_a_device_are_two_sessions() -> None:
    assert names(joins(record(TAB)).record.sessions) == ["tab", "new"]


def test_the_same_device_moves_its_session() -> None:
    joined = joins(record(PHONE, TAB), device="d1")
    assert names(joined.record.sessions) == ["tab", "phone"]
    assert (joined.session.gateway, joined.session.socket) == ("gw2", "new-socket")
    assert (joined.session.since, joined.session.resume_token) == (NOW, hash_token("new-token"))
    assert (joined.resumed, joined.displaced, joined.gone) == (False, (PHONE,), ())


def test_resume_moves_the_session_named() -> None:
    joined = joins(record(PHONE, TAB), resume=("phone", "phone-token"))
    assert names(joined.record.sessions) == ["tab", "phone"]
    assert (joined.session.device, joined.session.resume_token) == ("d1", hash_token("new-token"))
    assert (joined.resumed, joined.displaced, joined.gone) == (True, (PHONE,), ())


@pytest.mark.parametrize(
    "resume",
    [("phone", "tab-token"), ("phone", ""), ("phone", "é\ud800"), ("nobody", "phone-token")],
    ids=["wrong token", "empty token", "odd token", "unknown session"],
)
def test_a_resume_that_is_not_right_is_a_plain_join(resume: tuple[str, str]) -> None:
    before = record(PHONE, TAB)
    request = JoinRequest.model_construct(
        request_id="r", user="alice", gateway="gw2", socket="new-socket", device=None,
        resume_session=resume[0], resume_token=resume[1],
    )  # fmt: skip  # unchecked, for a text that pydantic would not let through
    joined = join(before, request, MULTI, NOW, Minted("new", "new-token"))
    assert names(joined.record.sessions) == ["phone", "tab", "new"]
    assert not joined.resumed


def test_resume_of_one_session_with_the_device_of_another() -> None:
    joined = joins(record(PHONE, TAB), resume=("tab", "tab-token"), device="d1")
    assert names(joined.record.sessions) == ["tab"]
    assert joined.session.device == "d1"
    assert (joined.displaced, joined.gone) == ((TAB, PHONE), (PHONE,))


def test_a_write_tried_again_changes_nothing() -> None:
    first = joins(record(PHONE), device="d2")
    again = joins(first.record, device="d2")
    assert again.record is first.record
    assert again.session == first.session
    assert again.displaced == again.gone == ()


@pytest.mark.parametrize("unheard", [True, False])
@pytest.mark.parametrize("shown", ["first", "second"])
def test_each_reply_to_a_repeated_request_has_a_token_that_resumes(shown: str, unheard: bool) -> None:
    first = joins(record(PHONE), device="d2", token="first")
    second = joins(first.record, device="d2", token="second")
    assert (first.token, second.token) == ("first", "second")
    assert names(second.record.sessions) == ["phone", "new"] and not second.displaced
    back = {"socket": "back", "resume": ("new", shown)}
    assert joins(second.record, **back).resumed  # type: ignore[arg-type]
    gone = lose(second.record, "new", "gw2", "new-socket", NOW + 5, unheard=unheard).record
    assert joins(gone, **back).resumed  # type: ignore[arg-type]
    request = ReassertRequest(
        request_id="r", user="alice", session="new", gateway="gw2", socket="new-socket", device="d2",
        resume_token=shown,
    )  # fmt: skip
    assert joins(reassert(gone, request, NOW + 6).record, **back).resumed  # type: ignore[arg-type]
    moved = joins(gone, **back).record  # type: ignore[arg-type]
    assert not moved.sessions[-1].alternates, "they end with the socket"


def test_tokens_of_other_answers_are_kept_within_bounds() -> None:
    now: Sessions | None = None
    for number in range(2 * ALTERNATES_MAX):
        now = joins(now, token=f"t{number}").record
    assert now is not None
    kept = [f"t{number}" for number in range(ALTERNATES_MAX - 1, 2 * ALTERNATES_MAX - 1)]
    assert now.sessions[0].alternates == tuple(map(hash_token, kept))


def test_a_repeated_resume_is_still_resumed() -> None:
    first = joins(record(PHONE), resume=("phone", "phone-token"))
    again = joins(first.record, resume=("phone", "phone-token"), token="another")
    assert (again.resumed, again.session.session, again.token) == (True, "phone", "another")
    assert again.session.spent == first.session.spent


# --- stored tokens ---


def clear(of: Session) -> Session:
    """The session as an older release stored it."""
    return of.model_copy(
        update={"resume_token": f"{of.session}-token", "spent": (f"{of.session}-spent",), "alternates": ()}
    )


def test_what_is_stored_of_a_token_does_not_resume() -> None:
    for stored in (PHONE.resume_token, hash_token(PHONE.resume_token)):
        assert not joins(record(PHONE, TAB), resume=("phone", stored)).resumed


def test_a_clear_token_of_an_older_release_resumes() -> None:
    old = record(clear(PHONE), clear(TAB))
    joined = joins(old, resume=("phone", "phone-token"))
    assert joined.resumed
    lost_ = record(*(s.model_copy(update={"lost_at": NOW}) for s in old.sessions))
    joined = joins(lost_, resume=("phone", "phone-spent"))
    assert joined.resumed
    assert joined.session.spent == (hash_token("phone-spent"), hash_token("phone-token"))
    assert not joins(old, resume=("phone", hash_token("phone-token"))).resumed


def test_any_write_hashes_all_clear_tokens_of_a_record() -> None:
    old = record(clear(PHONE), clear(TAB), clear(WATCH))
    gone = old.sessions[1].model_copy(update={"lost_at": NOW})
    leaving = LeaveRequest(
        request_id="r", user="alice", session="tab", gateway="gw1", socket="tab-socket", reason="hangup"
    )
    back = ReassertRequest(
        request_id="r", user="alice", session="tab", gateway="gw1", socket="tab-socket", resume_token="x"
    )
    written = [
        joins(old, device="d1").record,
        joins(old, resume=("tab", "tab-token")).record,
        joins(old, gateway="gw1", socket="tab-socket").record,
        joins(record(*old.sessions[:2]), device="d9").record,
        lose(old, "tab", "gw1", "tab-socket", NOW, unheard=True).record,
        leave(old, leaving).record,
        expire(record(old.sessions[0], gone), "tab", MULTI, NOW + MULTI.grace_ms).record,
        reassert(record(old.sessions[0], gone), back, NOW).record,
        reassert(record(old.sessions[0]), back, NOW).record,
    ]
    for after in written:
        assert after is not None
        for stored in after.sessions:
            tokens = (stored.resume_token, *stored.spent, *stored.alternates)
            assert all(token.startswith("s1:") for token in tokens), stored
        assert "-token" not in after.model_dump_json() and "-spent" not in after.model_dump_json()


def test_the_same_socket_with_a_device_now_keeps_its_session() -> None:
    joined = joins(record(PHONE, TAB), gateway="gw1", socket="tab-socket", device="d1")
    assert names(joined.record.sessions) == ["tab"]
    kept = {"device": "d1", "resume_token": hash_token("new-token"), "alternates": (TAB.resume_token,)}
    assert joined.session == TAB.model_copy(update=kept)
    assert (joined.displaced, joined.gone) == ((PHONE,), (PHONE,))


def test_a_socket_that_resumes_another_session_speaks_for_that_one_only() -> None:
    joined = joins(record(PHONE, TAB), gateway="gw1", socket="tab-socket", resume=("phone", "phone-token"))
    assert names(joined.record.sessions) == ["phone"]
    # Its own socket is not told off.
    assert (joined.displaced, joined.gone) == ((PHONE,), (TAB,))


def test_single_policy_keeps_the_last_session() -> None:
    joined = joins(record(PHONE, WATCH, TAB), device="d9", policy=SINGLE)
    assert names(joined.record.sessions) == ["tab"]
    assert joined.session.device == "d9"
    assert (names(joined.displaced), names(joined.gone)) == (["tab", "phone", "watch"], ["phone", "watch"])


def test_single_policy_resumes_the_session_named() -> None:
    joined = joins(record(PHONE, TAB), resume=("phone", "phone-token"), policy=SINGLE)
    assert names(joined.record.sessions) == ["phone"]
    assert (joined.resumed, names(joined.gone)) == (True, ["tab"])


def test_too_many_sessions() -> None:
    full = record(PHONE, TAB, WATCH)
    with pytest.raises(RateLimited, match="Too many sessions: a user may have 3") as refused:
        joins(full, device="d9")
    assert refused.value.retry_after_ms == 30_000
    assert names(joins(full, device="d1").record.sessions) == ["tab", "watch", "phone"]
    assert joins(full, device="d9", policy=SINGLE).session.session == "watch"


def leaves(before: Sessions | None, who: Session) -> tuple[Sessions | None, bool]:
    left = leave(
        before,
        LeaveRequest(
            request_id="r",
            user="alice",
            session=who.session,
            gateway=who.gateway,
            socket=who.socket,
            reason="hangup",
        ),
    )
    return left.record, left.moved


def test_leave() -> None:
    assert leaves(record(PHONE, TAB), PHONE) == (record(TAB), False)
    assert leaves(record(PHONE), PHONE) == (None, False)


def test_leave_of_a_session_that_moved() -> None:
    before = joins(record(PHONE), device="d1").record
    after, moved = leaves(before, PHONE)
    assert after is before
    assert moved


def test_a_repeated_leave() -> None:
    before = record(TAB)
    after, moved = leaves(before, PHONE)
    assert after is before
    assert not moved
    assert leaves(None, PHONE) == (None, False)


# --- any sequence of joins and leaves ---

JOINS = st.tuples(
    st.sampled_from(["gw1", "gw2"]),
    st.integers(0, 3),
    st.none() | st.sampled_from(["d1", "d2", "d3"]),
    st.none() | st.tuples(st.integers(0, 5), st.booleans()),
)
LEAVES = st.tuples(st.integers(0, 5), st.sampled_from(["gw1", "gw2"]), st.integers(0, 3))


@given(st.lists(JOINS | LEAVES, max_size=40), st.booleans())
def test_any_sequence_keeps_ids_devices_and_addresses_unique(
    deeds: list[tuple[object, ...]], single: bool
) -> None:
    policy = SINGLE if single else MULTI
    now: Sessions | None = None
    tokens: dict[str, str] = {}
    for number, deed in enumerate(deeds):
        known = now.sessions if now is not None else ()
        if len(deed) == 3:
            index, gateway, socket = deed
            target = f"s{index}" if not known else known[int(str(index)) % len(known)].session
            request = LeaveRequest(
                request_id="r", user="alice", session=target, gateway=str(gateway), socket=f"k{socket}",
                reason="hangup",
            )  # fmt: skip
            left = leave(now, request)
            assert len(known) - len(left.record.sessions if left.record else ()) in (0, 1)
            now = left.record
        else:
            gateway, socket, device, resume = deed
            resumable = None
            if isinstance(resume, tuple) and known:
                resumable = known[resume[0] % len(known)]
            join_request = JoinRequest(
                request_id="r", user="alice", gateway=str(gateway), socket=f"k{socket}",
                device=str(device) if device else None,
                resume_session=resumable.session if resumable else None,
                resume_token=(tokens[resumable.resume_token] if resume[1] else "wrong") if resumable else None,  # type: ignore[index]
            )  # fmt: skip
            try:
                joined = join(now, join_request, policy, number, Minted(f"s{number}", f"t{number}"))
            except RateLimited:
                assert not single
                assert len(known) == policy.limit
                continue
            now = joined.record
            tokens[joined.session.resume_token] = joined.token
            here = [s for s in now.sessions if (s.gateway, s.socket) == (gateway, f"k{socket}")]
            assert here == [joined.session]
            assert {*names(known)} - {*names(now.sessions)} == {*names(joined.gone)}
            assert all(old in known for old in joined.displaced)
            assert join(now, join_request, policy, number, Minted("x", f"t{number}")).record is now
        _check(now, policy)


def _check(now: Sessions | None, policy: SessionPolicy) -> None:
    if now is None:
        return
    sessions = now.sessions
    assert 0 < len(sessions) <= (1 if policy.single else policy.limit)
    devices = [s.device for s in sessions if s.device is not None]
    assert len({*names(sessions)}) == len(sessions)
    assert len({(s.gateway, s.socket) for s in sessions}) == len(sessions)
    assert len({*devices}) == len(devices)
    assert len({s.resume_token for s in sessions}) == len(sessions)


# --- connections that do not answer ---


def plain(*, socket: str = "new-socket", device: str | None = None) -> JoinRequest:
    return JoinRequest(request_id="r", user="alice", gateway="gw2", socket=socket, device=device)


@pytest.mark.parametrize("device", [None, "d1", "d9"])
def test_a_silent_session_in_a_call_is_taken_over_whatever_device_comes(device: str | None) -> None:
    before, silent = record(PHONE), Silent(PHONE, NOW - 5)
    joined = join(before, plain(device=device), MULTI, NOW, Minted("new", "new-token"), silent=silent)
    assert joined.session.session == "phone" and names(joined.displaced) == ["phone"]
    assert joined.silent_since == NOW - 5


def test_a_silent_session_that_moved_or_is_not_alone_is_not_taken_over() -> None:
    moved = PHONE.model_copy(update={"socket": "elsewhere"})
    for before in (record(moved), record(PHONE, TAB)):
        joined = join(before, plain(), MULTI, NOW, Minted("new", "t"), silent=Silent(PHONE, NOW))
        assert joined.session.session == "new" and joined.silent_since is None


def test_whose_connection_is_asked_about() -> None:
    assert maybe_silent(record(PHONE), plain(), MULTI) is PHONE
    assert maybe_silent(record(PHONE), plain(device="d9"), MULTI) is PHONE
    assert maybe_silent(record(PHONE), plain(device="d1"), MULTI) is None
    assert maybe_silent(record(PHONE, TAB), plain(), MULTI) is None
    assert maybe_silent(record(PHONE), plain(), SINGLE) is None
    assert maybe_silent(None, plain(), MULTI) is None
    good = plain().model_copy(update={"resume_session": "phone", "resume_token": "phone-token"})
    assert maybe_silent(record(PHONE), good, MULTI) is None
    wrong = good.model_copy(update={"resume_token": "wrong"})
    assert maybe_silent(record(PHONE), wrong, MULTI) is PHONE


def test_a_spent_token_is_valid_while_its_successor_is_not_received() -> None:
    """The same token on one gateway after the other, none of which gets through to the client."""
    now = record(TAB)
    for hop in range(5):
        request = JoinRequest(
            request_id="r", user="alice", gateway=f"gw{hop % 2}", socket=f"hop{hop}",
            resume_session="tab", resume_token="tab-token",
        )  # fmt: skip
        unheard = maybe_unheard(now, request)
        assert (unheard is None) == (hop == 0)
        assert hop == 0 or not join(now, request, MULTI, NOW, Minted("new", "x")).resumed
        joined = join(now, request, MULTI, NOW, Minted("new", f"t{hop}"), unheard=unheard)
        assert joined.resumed and joined.session.session == "tab"
        now = joined.record
        stale = join(
            now, request.model_copy(update={"socket": "z"}), MULTI, NOW, Minted("n", "y"), unheard=unheard
        )
        assert not stale.resumed, "what was said of another socket does not count"


STEPS = st.lists(
    st.tuples(st.sampled_from(["plain", "resume", "lost", "leave", "stale verdict"]), st.integers(0, 7)),
    max_size=30,
)


@given(STEPS)
def test_a_call_is_never_left_at_a_socket_that_does_not_answer(steps: list[tuple[str, int]]) -> None:
    """One client, any interleaving of joins, losses and verdicts: it has one session, at its last socket.

    Every socket but the last is silent. Verdicts are applied at once, or late, on a record that has changed.
    """
    now: Sessions | None = None
    token, name, stale = "", "", None
    for number, (step, _) in enumerate(steps):
        socket = f"k{number}"
        lone = now.sessions[0] if now is not None and len(now.sessions) == 1 else None
        if step in ("plain", "resume"):
            request = JoinRequest(
                request_id="r", user="alice", gateway=f"gw{number % 2}", socket=socket,
                resume_session=name or None if step == "resume" else None,
                resume_token=token or None if step == "resume" else None,
            )  # fmt: skip
            unheard, mute = maybe_unheard(now, request), maybe_silent(now, request, MULTI)
            joined = join(
                now, request, MULTI, number, Minted(f"s{number}", f"t{number}"),
                unheard=unheard, silent=Silent(mute, number) if mute is not None else None,
            )  # fmt: skip
            assert lone is None or joined.session.session == lone.session, "the call stays with its session"
            now, stale = joined.record, Silent(joined.session, number)
            if (
                step == "plain"
            ):  # a client that resumes never hears: it shows the token of its last plain join
                token, name = joined.token, joined.session.session
        elif step == "stale verdict" and stale is not None and now is not None:
            moved = now.sessions[-1].model_copy(update={"socket": f"m{number}"})
            other = Sessions(user="alice", sessions=(*now.sessions[:-1], moved))
            joined = join(other, plain(socket=socket), MULTI, number, Minted("q", "q"), silent=stale)
            assert joined.silent_since is None
        elif step == "lost" and lone is not None:
            now = lose(now, lone.session, lone.gateway, lone.socket, number, unheard=True).record
        elif step == "leave" and lone is not None:
            now, name, token = leaves(now, lone)[0], "", ""
        if now is not None:
            assert len(now.sessions) == 1
            _check(now, MULTI)


# --- grace --------------------------------------------------------------------------------------------------------


def lost(of: Session, at: int = NOW) -> Session:
    return of.model_copy(update={"lost_at": at})


@pytest.mark.parametrize("socket", ["tab-socket", None], ids=["that socket", "any socket"])
def test_a_broken_transport_begins_a_grace(socket: str | None) -> None:
    done = lose(record(PHONE, TAB), "tab", "gw1", socket, NOW + 5)
    assert done.record == record(PHONE, lost(TAB, NOW + 5))
    assert done.session == lost(TAB, NOW + 5)


@pytest.mark.parametrize(
    ("name", "gateway", "socket"),
    [("nobody", "gw1", None), ("tab", "gw2", None), ("tab", "gw1", "other-socket")],
)
def test_the_loss_of_a_session_that_has_moved_is_ignored(name: str, gateway: str, socket: str | None) -> None:
    before = record(PHONE, TAB)
    done = lose(before, name, gateway, socket, NOW + 5)
    assert (done.record, done.session) == (before, None)
    assert lose(None, name, gateway, socket, NOW).record is None


def test_a_grace_does_not_begin_twice() -> None:
    before = record(lost(TAB))
    done = lose(before, "tab", "gw1", None, NOW + 5)
    assert done.record is before and done.session == lost(TAB)


def test_a_grace_ends() -> None:
    before = record(PHONE, lost(TAB))
    over = NOW + MULTI.grace_ms
    early = expire(before, "tab", MULTI, over - 1)
    assert early.record is before and (early.session, early.wait_until) == (None, over)
    done = expire(before, "tab", MULTI, over)
    assert (done.record, done.session, done.wait_until) == (record(PHONE), lost(TAB), None)
    assert expire(record(lost(TAB)), "tab", MULTI, over).record is None


@pytest.mark.parametrize("name", ["tab", "nobody"])
def test_a_session_that_was_continued_does_not_end(name: str) -> None:
    before = record(PHONE, TAB)
    done = expire(before, name, MULTI, NOW + 10 * MULTI.grace_ms)
    assert done.record is before and (done.session, done.wait_until) == (None, None)


def test_resuming_ends_a_grace() -> None:
    joined = joins(record(lost(PHONE), TAB), resume=("phone", "phone-token"))
    assert joined.resumed and joined.continued and joined.was == lost(PHONE)
    assert joined.session.lost_at is None


def test_a_token_is_valid_until_its_client_is_known_to_have_received_the_next() -> None:
    first = joins(record(TAB), resume=("tab", "tab-token"))
    assert first.resumed and first.session.spent == (hash_token("tab-token"),)
    again = {"socket": "third-socket", "resume": ("tab", "tab-token")}
    assert not joins(first.record, **again).resumed, "its socket is there"  # type: ignore[arg-type]
    heard = lose(first.record, "tab", "gw2", "new-socket", NOW + 5)
    assert not joins(heard.record, **again).resumed  # type: ignore[arg-type]
    unheard = lose(first.record, "tab", "gw2", "new-socket", NOW + 5, unheard=True)
    second = joins(unheard.record, **again)  # type: ignore[arg-type]
    assert second.resumed and second.session.spent == tuple(map(hash_token, ("tab-token", "new-token")))
    third = lose(second.record, "tab", "gw2", "third-socket", NOW + 6, unheard=True)
    fourth = joins(third.record, socket="fourth-socket", resume=("tab", "new-token"))
    assert fourth.resumed and hash_token("tab-token") not in fourth.session.spent


def test_the_tokens_remembered_are_few() -> None:
    now: Sessions | None = record(TAB)
    for number in range(3 * SPENT_MAX):
        request = JoinRequest(
            request_id="r", user="alice", gateway="gw2", socket=f"s{number}",
            resume_session="tab", resume_token="tab-token",
        )  # fmt: skip
        joined = join(now, request, MULTI, NOW, Minted("new", f"t{number}"))
        assert joined.resumed and joined.session.spent[0] == hash_token("tab-token")
        assert len(joined.session.spent) <= SPENT_MAX
        now = lose(joined.record, "tab", "gw2", f"s{number}", NOW, unheard=True).record


def test_a_session_unknown_to_its_gateway_is_found_by_its_socket() -> None:
    before = record(PHONE, TAB)
    assert lose(before, None, "gw1", "tab-socket", NOW + 5).record == record(PHONE, lost(TAB, NOW + 5))
    assert lose(before, None, "gw1", "other-socket", NOW + 5).record is before
    assert lose(None, None, "gw1", "tab-socket", NOW).record is None


def test_a_plain_join_takes_the_only_session_over_if_it_is_lost() -> None:
    joined = joins(record(lost(TAB)))
    assert (joined.session.session, joined.session.lost_at) == ("tab", None)
    assert (joined.resumed, joined.continued, joined.was) == (False, True, lost(TAB))
    assert names(joins(record(lost(PHONE))).record.sessions) == ["phone"]
    assert names(joins(record(lost(TAB)), device="d9").record.sessions) == ["tab"]


@pytest.mark.parametrize(
    ("before", "device"),
    [((TAB,), None), ((lost(TAB), PHONE), None), ((lost(TAB), lost(WATCH)), None), ((lost(PHONE),), "d2")],
    ids=["not lost", "not the only one", "two are lost", "another device"],
)
def test_otherwise_it_takes_nothing_over(before: tuple[Session, ...], device: str | None) -> None:
    joined = joins(record(*before), device=device)
    assert joined.session.session == "new" and not joined.continued


def test_the_one_lost_longest_ago_makes_room() -> None:
    joined = joins(record(PHONE, lost(TAB, NOW - 1), lost(WATCH, NOW - 2)), device="d2")
    assert names(joined.record.sessions) == ["phone", "tab", "new"]
    assert names(joined.gone) == names(joined.displaced) == ["watch"]


def reasserts(
    before: Sessions | None, *, gateway: str = "gw1", device: str | None = None
) -> Sessions | bool | None:
    """The record afterwards; ``True`` for a session that moved."""
    request = ReassertRequest(
        request_id="r", user="alice", session="tab", gateway=gateway, socket="tab-socket",
        device=device, resume_token="tab-token",
    )  # fmt: skip
    done = reassert(before, request, NOW)
    assert not done.moved or done.record is before
    return True if done.moved else done.record


def test_a_gateway_that_counted_as_dead_reasserts_its_sessions() -> None:
    known = record(PHONE, TAB)
    assert reasserts(known) is known
    assert reasserts(record(PHONE, lost(TAB))) == known
    assert reasserts(record(PHONE)) == known
    assert reasserts(None) == record(TAB)


def test_but_not_those_that_have_moved_on() -> None:
    assert reasserts(record(PHONE, TAB), gateway="gw2") is True
    assert reasserts(record(lost(TAB)), gateway="gw2") is True
    assert reasserts(record(PHONE), device="d1") is True, "its device has come back as another session"
