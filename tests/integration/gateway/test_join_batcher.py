"""Who joins in one moment asks presence in one request."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.gateway.sessions.join_batcher import BATCH_MAX, JoinBatcher
from shared.contracts.presence import JoinReply, JoinsRequest
from shared.errors import NotSent, RateLimited, SignallingError, Unavailable
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from tests.integration.gateway.conftest import Services

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


def asks(user: str, **more: Any) -> JoinsRequest:
    return JoinsRequest(request_id=f"r-{user}", user=user, gateway="gw", socket=f"of-{user}", **more)


def answer(user: str, *also: Any) -> dict[str, Any]:
    """What presence says: a reply, or a code."""
    outcomes = [
        {"error": {"code": one[1:], "message": "m", "retryable": False}}
        if one.startswith("!")
        else {"reply": answer(one)}
        for one in also
    ]
    told = {"session": f"s-{user}", "resumeToken": "t", "since": 1, "resumed": False, "busy": user == "bob"}
    return {**told, "also": outcomes} if also else told


async def all_of(join_batcher: JoinBatcher, *requests: JoinsRequest) -> list[JoinReply | BaseException]:
    return await asyncio.gather(*(join_batcher.join(request) for request in requests), return_exceptions=True)


def joined(replies: list[JoinReply | BaseException]) -> list[str]:
    return [reply.session if isinstance(reply, JoinReply) else type(reply).__name__ for reply in replies]


def alone(services: Services) -> list[str]:
    """Who was asked for, by requests that named one user only."""
    return [request["user"] for _, request in services.asked if "also" not in request]


async def test_each_join_of_a_batch_has_its_outcome(bus: Bus, services: Services) -> None:
    services.answers["join"] = answer("alice", "bob", "!rate_limited", "dave")
    replies = await all_of(
        JoinBatcher(RpcClient(bus, timeout=2)), *map(asks, ("alice", "bob", "carol", "dave"))
    )
    assert joined(replies) == ["s-alice", "s-bob", "RateLimited", "s-dave"]
    assert [reply.busy for reply in replies if isinstance(reply, JoinReply)] == [False, True, False]
    ((verb, request),) = services.asked
    assert (verb, request["user"]) == ("join", "alice")
    assert [(one["user"], one["socket"]) for one in request["also"]] == [
        ("bob", "of-bob"), ("carol", "of-carol"), ("dave", "of-dave"),
    ]  # fmt: skip


async def test_later_lone_and_resuming_joins_do_not_wait(bus: Bus, services: Services) -> None:
    join_batcher = JoinBatcher(RpcClient(bus, timeout=2))
    services.slow["join"] = 0.2
    first = asyncio.create_task(join_batcher.join(asks("alice")))
    await services.wait_for("join")
    back = asks("carol", resume_session="s", resume_token="t")
    assert joined(await all_of(join_batcher, asks("bob"), back)) == ["s-of-bob", "s-of-carol"]
    await first
    assert sorted(alone(services)) == ["alice", "bob", "carol"]


async def test_an_older_presence_is_asked_for_each_join(bus: Bus, services: Services) -> None:
    replies = await all_of(JoinBatcher(RpcClient(bus, timeout=2)), *map(asks, ("alice", "bob", "carol")))
    assert joined(replies) == ["s-of-alice", "s-of-bob", "s-of-carol"]
    assert sorted(alone(services)) == ["bob", "carol"]


async def test_a_refusal_of_the_first_join_does_not_refuse_the_others(
    bus: Bus, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_batcher = JoinBatcher(RpcClient(bus, timeout=2))
    usual: Callable[[str, dict[str, Any]], Any] = services._usual

    def full(verb: str, request: dict[str, Any]) -> Any:
        return ("rate_limited", "Too many sessions") if "also" in request else usual(verb, request)

    monkeypatch.setattr(services, "_usual", full)
    first, other = await all_of(join_batcher, asks("alice"), asks("bob"))
    assert isinstance(first, RateLimited)
    assert isinstance(other, JoinReply) and other.session == "s-of-bob"


@pytest.mark.parametrize("there", [True, False])
async def test_a_batch_without_a_reply_is_unavailable_and_not_retried(
    bus: Bus, services: Services, there: bool
) -> None:
    services.slow["join"] = 5
    join_batcher = JoinBatcher(RpcClient(bus, timeout=0.2))
    if not there:
        await bus.client.close()
    replies = await all_of(join_batcher, *map(asks, ("alice", "bob", "carol")))
    expected: type[SignallingError] = Unavailable if there else NotSent
    assert [type(reply) for reply in replies] == [expected] * 3
    assert alone(services) == []
    assert len(services.asked) == (1 if there else 0), "the stand-in deals with one at a time"


async def test_a_cancelled_first_join_fails_the_others_at_once(bus: Bus, services: Services) -> None:
    services.slow["join"] = 5
    join_batcher = JoinBatcher(RpcClient(bus, timeout=2))
    first = asyncio.create_task(join_batcher.join(asks("alice")))
    other = asyncio.create_task(join_batcher.join(asks("bob")))
    await services.wait_for("join")
    first.cancel()
    with pytest.raises(Unavailable):
        await other
    with pytest.raises(asyncio.CancelledError):
        await first
    # Also before anything was asked.
    first = asyncio.create_task(join_batcher.join(asks("alice")))
    other = asyncio.create_task(join_batcher.join(asks("bob")))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Unavailable):
        await other


async def test_batches_are_bounded(bus: Bus, services: Services) -> None:
    many = [f"u{n}" for n in range(BATCH_MAX + 3)]
    replies = await all_of(JoinBatcher(RpcClient(bus, timeout=2)), *map(asks, many))
    assert joined(replies) == [f"s-of-{user}" for user in many]
    first, second = (request for _, request in services.asked if "also" in request)
    assert (len(first["also"]), len(second["also"])) == (BATCH_MAX, 1)
