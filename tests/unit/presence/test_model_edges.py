"""The edges of what is known of sessions: tokens of before, sessions that gateways reassert, evictions."""

import pytest

from services.presence.model import SPENT_MAX, Minted, Reasserted, join, lose, maybe_unheard, reassert
from services.presence.resume_tokens import hash_token
from shared.contracts.presence import JoinRequest, ReassertRequest, Session, Sessions
from tests.unit.presence.test_model import MULTI, NOW, record, session

MINTED = Minted("fresh", "fresh-token")


def request(
    *, socket: str = "new", resume: str | None = None, token: str | None = None, device: str | None = None
) -> JoinRequest:
    return JoinRequest(
        request_id="r",
        user="alice",
        gateway="gw1",
        socket=socket,
        device=device,
        resume_session=resume,
        resume_token=token,
    )


def hashes(*tokens: str) -> tuple[str, ...]:
    return tuple(map(hash_token, tokens))


def spent(*tokens: str) -> Session:
    return session("a").model_copy(update={"spent": hashes(*tokens)})


@pytest.mark.parametrize(
    ("known", "asked", "unheard"),
    [
        (spent("t1"), request(resume="a", token="t1"), True),
        (spent("t0", "t1"), request(resume="a", token="t1"), True),
        (spent("t1"), request(resume="a", token="t2"), False),
        (spent("t1"), request(resume="a"), False),
        (spent(), request(resume="a", token="a-token"), False),
        (spent("t1"), request(resume="b", token="t1"), False),
        (spent("t1"), request(token="t1"), False),
        (spent("t1"), request(resume="a", token="t1", socket="a-socket"), False),
        (spent("t1").model_copy(update={"lost_at": NOW}), request(resume="a", token="t1"), False),
    ],
)
def test_whose_client_may_be_about_to_be_lost(known: Session, asked: JoinRequest, unheard: bool) -> None:
    assert (maybe_unheard(record(known), asked) == known) is unheard
    assert maybe_unheard(None, asked) is None


def reasserted(known: Sessions | None, *, device: str | None = None, socket: str = "a-socket") -> Reasserted:
    asked = ReassertRequest(
        request_id="r",
        user="alice",
        session="a",
        gateway="gw1",
        socket=socket,
        device=device,
        resume_token="told",
    )
    return reassert(known, asked, NOW + 7)


def test_an_unknown_session_is_restored_as_its_gateway_reports_it() -> None:
    done = reasserted(None, device="phone")
    assert done.record is not None and (done.moved, done.was) == (False, None)
    (found,) = done.record.sessions
    assert (found.session, found.gateway, found.socket) == ("a", "gw1", "a-socket")
    assert (found.device, found.since, found.lost_at) == ("phone", NOW + 7, None)
    assert found.resume_token == hash_token("told")
    others = record(session("b"))
    done = reasserted(others)
    assert done.record is not None and [s.session for s in done.record.sessions] == ["b", "a"]


def test_a_lost_session_is_restored_unchanged() -> None:
    known = session("a", device="phone").model_copy(update={"lost_at": NOW, "since": 5})
    done = reasserted(record(known), device="phone")
    assert done.record is not None and (done.moved, done.was) == (False, known)
    (found,) = done.record.sessions
    assert (found.since, found.lost_at, found.device) == (5, None, "phone")
    assert found.resume_token == hash_token("a-token")


def test_a_session_that_is_there_stays_as_it_is() -> None:
    known = record(session("a"))
    done = reasserted(known)
    assert (done.record, done.moved, done.was) == (known, False, None) and done.record is known


def test_a_session_that_has_moved_on_is_not_taken_back() -> None:
    known = record(session("a"))
    assert (reasserted(known, socket="other").moved, reasserted(known, socket="other").record) == (
        True,
        known,
    )
    assert reasserted(record(session("b", device="phone")), device="phone").moved
    assert not reasserted(record(session("b", device="phone")), device="tablet").moved
    assert not reasserted(record(session("b"))).moved, "two without a device are two devices"


def test_tokens_of_before_are_kept_within_bounds() -> None:
    """The first, by which it was resumed last, and the last ones."""
    for length in (SPENT_MAX - 2, SPENT_MAX - 1, SPENT_MAX, SPENT_MAX + 3):
        tokens = tuple(f"t{n}" for n in range(length))
        known = spent(*tokens).model_copy(update={"lost_at": NOW})
        joined = join(record(known), request(resume="a", token="t0"), MULTI, NOW, MINTED)
        assert joined.resumed
        expected = (*tokens, "a-token")
        if len(expected) > SPENT_MAX:
            expected = (expected[0], *expected[-(SPENT_MAX - 1) :])
        assert joined.session.spent == hashes(*expected) and len(joined.session.spent) <= SPENT_MAX


def test_tokens_before_the_one_that_is_shown_are_forgotten() -> None:
    known = spent("t0", "t1", "t2").model_copy(update={"lost_at": NOW})
    joined = join(record(known), request(resume="a", token="t1"), MULTI, NOW, MINTED)
    assert joined.session.spent == hashes("t1", "t2", "a-token")


def test_a_client_that_shows_no_token_keeps_all_of_them() -> None:
    known = spent("t0", "t1").model_copy(update={"lost_at": NOW})
    joined = join(record(known), request(), MULTI, NOW, MINTED)
    assert (joined.session.session, joined.resumed) == ("a", False)
    assert joined.session.spent == hashes("t0", "t1", "a-token")


@pytest.mark.parametrize(("resume", "token"), [("a", None), (None, "a-token"), (None, None)])
def test_half_a_resume_resumes_nothing(resume: str | None, token: str | None) -> None:
    known = session("a", device="phone")
    joined = join(record(known), request(resume=resume, token=token), MULTI, NOW, MINTED)
    assert not joined.resumed and joined.session.session == "fresh"


def test_a_loss_with_an_unreceived_token_keeps_the_tokens() -> None:
    for unheard in (True, False):
        lost = lose(record(spent("t1")), "a", "gw1", "a-socket", NOW + 1, unheard=unheard)
        assert lost.session is not None and lost.session.spent == (hashes("t1") if unheard else ())
