"""Resume tokens in the bucket ``sessions``: hashed, and clear ones of an older release."""

import pytest

from services.presence.resume_tokens import HASHED
from shared import subjects
from shared.contracts.presence import JoinReply, JoinRequest, JoinsReply, JoinsRequest, Sessions
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from tests.integration.presence.conftest import Gateway, Start
from tests.integration.presence.test_presence import sessions

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

USER = "alice@example.com *"


async def test_nothing_that_is_written_holds_a_token_that_a_client_was_given(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway
) -> None:
    """All writes of a session's life: joins alone and in company, tried again, moved, lost, resumed, reasserted."""
    await presence()
    written: list[bytes] = []
    for subject in ("$KV.sessions.>", "event.>", "deadline.>"):
        await bus.subscribe_direct(subject, lambda _subject, _reply, data, *_: written.append(bytes(data)))
    await bus.flush()
    join_batcher = JoinRequest(request_id=new_id(), user="bob", gateway="gw1", socket="b1")
    request = JoinsRequest(request_id=new_id(), user=USER, gateway="gw1", socket="s1", also=(join_batcher,))
    both = await RpcClient(bus, timeout=5.0).ask("presence", "join", request, JoinsReply)
    assert both.also is not None and both.also[0].reply is not None
    first: JoinReply = both
    again = await gw1.join(USER, "s1")
    await gw1.lose(USER, first.session, "s1", unheard=True)
    resumed = await gw2.join(USER, "s2", resume=again)
    await gw2.lose(USER, first.session, "s2", unheard=True)
    once_more = await gw1.join(USER, "s3", resume=again)
    assert again.session == first.session and resumed.resumed and once_more.resumed
    bucket, key = Bucket(bus, subjects.BUCKET_SESSIONS), subjects.key_user(USER)
    await bucket.unset(key)
    assert not await gw1.reassert(USER, once_more, "s3")
    stolen = once_more.model_copy(update={"resume_token": (await sessions(bus, USER))[0].resume_token})
    last = await gw2.join(USER, "s4", device="phone", resume=once_more)
    assert last.resumed, "what a gateway reasserts is resumed by the clear token"
    await bus.flush()
    given = [both.also[0].reply, first, again, resumed, once_more, last]
    assert len({one.resume_token for one in given}) == len(given), "each answer has a token of its own"
    everything = b"\n".join(written)
    assert everything.count(HASHED.encode()) > len(given)
    for one in given:
        assert one.session.encode() in everything
        assert one.resume_token.encode() not in everything
    stored = (await sessions(bus, USER))[0]
    for value in (stolen.resume_token, stored.resume_token, stored.resume_token.removeprefix(HASHED)):
        thief = last.model_copy(update={"resume_token": value})
        assert not (await gw1.join(USER, f"thief-{new_id()}", device=new_id(), resume=thief)).resumed


async def test_a_session_that_an_older_release_stored_is_resumed_and_hashed(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway
) -> None:
    await presence()
    joined, other = await gw1.join(USER, "s1", device="a"), await gw1.join(USER, "s2", device="b")
    bucket, key = Bucket(bus, subjects.BUCKET_SESSIONS), subjects.key_user(USER)
    entry = await bucket.get(key, fresh=True)
    old = tuple(
        {
            "session": s.session, "gateway": s.gateway, "socket": s.socket, "device": s.device,
            "since": s.since, "resumeToken": token, "spent": (f"{token}-spent",),
        }
        for s, token in zip(await sessions(bus, USER), (joined.resume_token, other.resume_token), strict=True)
    )  # fmt: skip
    record = Sessions.model_validate({"user": USER, "sessions": old})
    assert joined.resume_token in record.model_dump_json()
    await bucket.put(key, record.dump(), entry.revision)

    back = await gw2.join(USER, "s3", resume=joined)
    assert (back.session, back.resumed) == (joined.session, True)
    value = (await bucket.get(key, fresh=True)).value
    assert value and joined.resume_token.encode() not in value and other.resume_token.encode() not in value
    assert (await gw2.join(USER, "s4", resume=back)).resumed
    assert (await gw2.join(USER, "s5", resume=other)).resumed, "hashed with somebody else's write"
