"""Several who join in one request, and what is written before what."""

import pytest

from services.presence.resume_tokens import hash_token
from services.presence.store import Store
from shared import subjects
from shared.contracts.presence import JoinReply, JoinRequest, JoinsReply, JoinsRequest
from shared.errors import RateLimited
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from tests.integration.presence.conftest import Gateway, Start
from tests.integration.presence.test_presence import hold, sessions

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


def asks(user: str, *, socket: str = "") -> JoinRequest:
    return JoinRequest(request_id=new_id(), user=user, gateway="gw1", socket=socket or f"of-{user}")


async def ask(bus: Bus, first: JoinRequest, *others: JoinRequest, attempt: int = 1) -> JoinsReply:
    request = JoinsRequest(**{**first.model_dump(), "also": others})
    if attempt == 1:
        return await RpcClient(bus, timeout=5.0).ask("presence", "join", request, JoinsReply)
    again = request.model_copy(update={"attempt": attempt})
    answer = await bus.request(subjects.rpc("presence", "join"), again.dump(), timeout=5.0)
    return JoinsReply.model_validate_json(answer.data.removeprefix(b'{"ok":true,"result":')[:-1])


def each(reply: JoinsReply) -> list[JoinReply | None]:
    assert reply.also is not None
    return [reply, *(also.reply for also in reply.also)]


async def test_each_has_a_session_of_its_own_or_an_answer_of_its_own(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    await presence(sessions_per_user=1)
    await hold(bus, "bob")
    full = await gw1.join("carol", "s1")
    reply = await ask(bus, asks("alice"), asks("bob"), asks("carol"), asks("dave"))
    alice, bob, carol, dave = each(reply)
    assert alice and bob and dave and not carol
    assert reply.also is not None and (reply.also[1].error or {})["code"] == "rate_limited"
    assert [one.busy for one in (alice, bob, dave)] == [False, True, False]
    for user, joined in (("alice", alice), ("bob", bob), ("carol", full), ("dave", dave)):
        (stored,) = await sessions(bus, user)
        assert (stored.session, stored.resume_token) == (joined.session, hash_token(joined.resume_token))
    at, bucket = set(await Store(bus).at("gw1")), Bucket(bus, subjects.BUCKET_SESSIONS)
    assert at >= {
        (alice.session, "alice"),
        (bob.session, "bob"),
        (full.session, "carol"),
        (dave.session, "dave"),
    }
    for session, user in at:  # what was noted for who did not come in is not there any more
        there = (await bucket.get(subjects.key_at("gw1", session, user), fresh=True)).value
        assert bool(there) == (session in {alice.session, bob.session, full.session, dave.session})


async def test_two_devices_of_one_user_in_one_request(bus: Bus, presence: Start) -> None:
    await presence()
    one, other = each(await ask(bus, asks("alice", socket="s1"), asks("alice", socket="s2")))
    assert one and other and one.session != other.session
    assert {s.session for s in await sessions(bus, "alice")} == {one.session, other.session}


async def test_a_repeated_batch_keeps_its_sessions(bus: Bus, presence: Start, gw2: Gateway) -> None:
    """Either answer may be the one that the gateway takes: the tokens of both resume."""
    await presence()
    requests = [asks("alice"), asks("bob"), asks("carol")]
    first = each(await ask(bus, *requests))
    again = each(await ask(bus, *requests, attempt=2))
    assert [r and r.session for r in again] == [r and r.session for r in first]
    assert len(await sessions(bus, "bob")) == 1
    for user, answer in (("alice", first[0]), ("bob", again[1]), ("carol", first[2])):
        assert answer is not None and (await gw2.join(user, "elsewhere", resume=answer)).resumed


async def test_where_the_first_is_refused_the_others_are_in_and_found_when_asked_alone(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    await presence(sessions_per_user=1)
    await gw1.join("alice", "s1")
    with pytest.raises(RateLimited):
        await ask(bus, asks("alice"), asks("bob"))
    (stored,) = await sessions(bus, "bob")
    assert (await gw1.join("bob", "of-bob")).session == stored.session
    assert len(await sessions(bus, "bob")) == 1


async def test_a_repeated_join_is_noted_even_if_nothing_else_is_written(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    await presence()
    joined = await gw1.join("alice", "s1")
    # The session was stored, but not the note: NATS had no leader for a moment, say.
    await Store(bus).forget("gw1", joined.session, "alice")
    key = subjects.key_at("gw1", joined.session, "alice")
    assert (await gw1.join("alice", "s1")).session == joined.session
    assert (await Bucket(bus, subjects.BUCKET_SESSIONS).get(key, fresh=True)).value


async def test_the_note_is_sent_before_the_session(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence()
    written: list[str] = []
    for subject in ("$KV.sessions.>", "deadline.set.grace.*"):
        await bus.subscribe_direct(subject, lambda subject, *_: written.append(subject))
    await bus.flush()
    record = "$KV.sessions." + subjects.key_user("alice")
    joined = await gw1.join("alice", "s1")
    await bus.flush()
    assert written == ["$KV.sessions." + subjects.key_at("gw1", joined.session, "alice"), record]
    written.clear()
    await gw1.lose("alice", joined.session, "s1")
    await bus.flush()
    assert written == [subjects.deadline_set("grace", joined.session), record]
