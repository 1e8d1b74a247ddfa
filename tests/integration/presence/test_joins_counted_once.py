"""A join that is asked for again, by the same request id, is counted once."""

import asyncio

import pytest
from nats.aio.msg import Msg

from services.gateway.sessions.join_batcher import JoinBatcher
from services.presence.join_limiter import FREE
from shared import subjects
from shared.contracts.presence import JoinReply, JoinsRequest
from shared.errors import RateLimited
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from shared.nats.kv import NOTHING, Bucket
from shared.token_bucket import Rate
from tests.integration.presence.conftest import Gateway, Start
from tests.integration.presence.test_batched_joins import ask, asks, each
from tests.integration.presence.test_presence import hold, sessions

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

ROUNDS = FREE.events // 2 + 1
"""So many joins are free, and twice as many are not."""


async def _charged(bus: Bus, user: str) -> bool:
    """True if joins of ``user`` were more than an instance admits for nothing."""
    return await Bucket(bus, subjects.BUCKET_SESSIONS).get(subjects.key_joins(user), fresh=True) != NOTHING


def _plain(user: str, socket: str, gateway: str = "gw9") -> JoinsRequest:
    return JoinsRequest(request_id=new_id(), user=user, gateway=gateway, socket=socket)


async def _all(join_batcher: JoinBatcher, *requests: JoinsRequest) -> list[JoinReply]:
    return await asyncio.gather(*(join_batcher.join(each) for each in requests))


async def test_the_batch_of_a_repeated_request_is_not_counted_twice(bus: Bus, presence: Start) -> None:
    await presence(sessions_per_user=100)
    for n in range(ROUNDS):
        request = (asks(f"first-{n}"), asks("alice", socket=f"s{n}"), asks("bob", socket=f"t{n}"))
        first = each(await ask(bus, *request))
        again = each(await ask(bus, *request, attempt=2))
        assert [one and one.session for one in first] == [one and one.session for one in again]
    assert not await _charged(bus, "alice") and not await _charged(bus, "bob")
    for n in range(FREE.events):
        await ask(bus, asks("alice", socket=f"u{n}"))
    assert await _charged(bus, "alice"), "joins that are new count"


@pytest.mark.parametrize("leads", [True, False])
async def test_a_join_that_is_to_be_asked_for_alone(
    bus: Bus, presence: Start, gw1: Gateway, *, leads: bool
) -> None:
    """The one session of alice is in a call and lives: another one joins beside it, after its gateway said so."""
    await presence(sessions_per_user=100)
    await hold(bus, "alice")
    old = await gw1.join("alice", "old")
    asked = 0

    async def lives(msg: Msg) -> None:
        nonlocal asked
        asked += 1
        await msg.respond(subjects.YES)

    async def left(msg: Msg) -> None:
        await msg.respond(b'{"ok":true,"result":{}}')

    await bus.subscribe(subjects.control_all("gw1"), lives)
    await bus.subscribe(subjects.rpc("calls", "left"), left)
    await bus.flush()
    join_batcher, gw9 = JoinBatcher(RpcClient(bus, timeout=5)), Gateway(bus, "gw9")
    for n in range(ROUNDS):
        alice, other = _plain("alice", f"s{n}"), _plain(f"other-{n}", f"t{n}")
        joined = await _all(join_batcher, *((alice, other) if leads else (other, alice)))
        (mine,) = [one for one in joined if one.busy]
        assert mine.session != old.session
        await gw9.leave("alice", mine.session, f"s{n}")
    assert asked == ROUNDS
    assert not await _charged(bus, "alice")


async def test_companions_of_one_that_is_refused(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence(sessions_per_user=1)
    await gw1.join("full", "s")
    join_batcher, gw9 = JoinBatcher(RpcClient(bus, timeout=5)), Gateway(bus, "gw9")
    for n in range(ROUNDS):
        requests = _plain("full", f"f{n}"), _plain("alice", f"s{n}")
        refused, alice = await asyncio.gather(*map(join_batcher.join, requests), return_exceptions=True)
        assert isinstance(refused, RateLimited) and isinstance(alice, JoinReply)
        assert [one.session for one in await sessions(bus, "alice")] == [alice.session]
        await gw9.leave("alice", alice.session, f"s{n}")
    assert not await _charged(bus, "alice")


async def test_companions_of_one_that_is_refused_get_past_no_limit(bus: Bus, presence: Start) -> None:
    """All of one user come at once, the first over the limit: none of the others is taken for one that was counted."""
    limit = Rate(FREE.events, 600)
    await presence(sessions_per_user=100, joins_per_user=limit)
    join_batcher = JoinBatcher(RpcClient(bus, timeout=5))
    admitted = 0
    for turn in range(4):
        requests = [_plain("alice", f"s{turn}-{n}") for n in range(8)]
        done = await asyncio.gather(*map(join_batcher.join, requests), return_exceptions=True)
        assert all(isinstance(one, JoinReply | RateLimited) for one in done)
        admitted += sum(isinstance(one, JoinReply) for one in done)
    assert FREE.events <= admitted <= limit.events + FREE.events
