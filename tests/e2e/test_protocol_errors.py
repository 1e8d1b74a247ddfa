"""The protocol, row by row: every error, as an ``error`` event and in the acknowledgement."""

import asyncio
from typing import Any

import pytest

from tests.support.node_client import NodeDriver
from tests.support.scenario import KINDS, Stage, end, ring, talk, usable
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

EVENTS: dict[str, dict[str, Any]] = {
    "call:initiate": {"to": "bob", "callType": "audio"},
    "call:accept": {"callId": "c"},
    "call:reject": {"callId": "c"},
    "call:end": {"callId": "c"},
    "call:offer": {"offer": {}, "from": "alice", "to": "bob"},
    "call:answer": {"answer": {}, "from": "alice", "to": "bob"},
    "ice:candidate": {"candidate": {}, "from": "alice", "to": "bob"},
    "user:status": {"userId": "alice"},
}
"""A well-formed payload for every event but ``user:join``."""


def _error(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": False, **more}


async def test_user_id_required(stage: Stage) -> None:
    client = await stage.socket("nobody")
    error = await client.refused("user:join", {"token": "x"})
    assert error == _error("user_id_required", "User ID is required")
    await client.join(stage.id("nobody"))


async def test_not_authenticated_before_join(stage: Stage) -> None:
    client = await stage.socket("nobody")
    for event, payload in EVENTS.items():
        error = await client.refused(event, payload)
        error.pop("callId", None)
        assert error == _error("not_authenticated", "User not authenticated"), event
    await client.join(stage.id("nobody"))


async def test_bad_request_names_the_field(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    address = {"from": alice.user, "to": bob.user}
    wrong: list[tuple[str, Any, str]] = [
        ("call:initiate", {"to": bob.user}, "callType"),
        ("call:initiate", {"to": bob.user, "callType": "smell"}, "callType"),
        ("call:initiate", {"to": 7, "callType": "audio"}, "to"),
        ("call:initiate", {"to": bob.user, "callType": "audio", "metadata": "x" * 5000}, "metadata"),
        ("call:accept", {}, "callId"),
        ("call:end", {"callId": "c", "reason": "Not A Word"}, "reason"),
        ("call:offer", {"offer": {"sdp": "x" * 65_537}, **address}, "offer"),
        ("call:answer", {"answer": "sdp", **address}, "answer"),
    ]
    for event, payload, field in wrong:
        error = await alice.refused(event, payload, code="bad_request")
        assert field in error["message"] and error["retryable"] is False, error
    await alice.refused("call:accept", code="bad_request")
    await bob.quiet()


async def test_a_large_offer_within_the_bound_passes(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    sdp = "x" * 65_000
    await alice.ok("call:offer", {"offer": {"sdp": sdp}, "from": alice.user, "to": bob.user})
    assert (await bob.expect("call:offer"))["offer"] == {"sdp": sdp}
    await end(alice, bob, call=call)


async def test_unauthorized_when_speaking_for_another(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    sent: list[tuple[str, dict[str, Any]]] = [
        ("call:offer", {"offer": {}, "from": alice.user, "to": alice.user}),
        ("call:answer", {"answer": {}, "from": "somebody", "to": alice.user}),
        ("ice:candidate", {"candidate": {}, "from": alice.user, "to": alice.user}),
        ("user:join", {"userId": alice.user}),
    ]
    for event, payload in sent:
        error = await bob.refused(event, payload)
        error.pop("callId", None)
        assert error == _error("unauthorized", "Unauthorized"), event
    await end(alice, bob, call=call, reason="cancelled")


async def test_already_in_call(stage: Stage) -> None:
    alice, bob, carol = await stage.many("alice", "bob", "carol")
    call = await ring(alice, bob)
    for busy in (alice, bob):
        error = await busy.refused("call:initiate", {"to": carol.user, "callType": "audio"})
        error.pop("callId", None)
        assert error == _error("already_in_call", "Already in a call")
    await alice.refused("call:initiate", {"to": bob.user, "callType": "audio"}, code="already_in_call")
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call)
    await alice.refused("call:initiate", {"to": carol.user, "callType": "audio"}, code="already_in_call")
    await end(alice, bob, call=call)


async def test_user_not_found(stage: Stage) -> None:
    alice = await stage.user("alice")
    error = await alice.refused("call:initiate", {"to": stage.id("nobody"), "callType": "audio"})
    assert error == _error("user_not_found", "User not found")


async def test_user_unavailable(stage: Stage) -> None:
    alice, bob, carol = await stage.many("alice", "bob", "carol")
    call = await ring(alice, bob)
    for busy in (alice, bob):
        error = await carol.refused("call:initiate", {"to": busy.user, "callType": "audio"})
        assert error == _error("user_unavailable", "User is not available")
    await end(alice, bob, call=call, reason="cancelled")


async def test_calling_oneself(stage: Stage) -> None:
    alice = await stage.user("alice")
    await alice.refused("call:initiate", {"to": alice.user, "callType": "audio"}, code="bad_request")


async def test_call_not_found_is_one_answer(stage: Stage) -> None:
    alice, bob, carol = await stage.many("alice", "bob", "carol")
    over = await talk(alice, bob)
    await end(alice, bob, call=over)
    live = await ring(alice, bob)
    for who, call in ((alice, "no-such-call"), (alice, over), (carol, live)):
        for event in ("call:accept", "call:reject", "call:end"):
            error = await who.refused(event, {"callId": call})
            error.pop("callId", None)
            assert error == _error("call_not_found", "Call not found or expired"), (event, call)
    await end(alice, bob, call=live, reason="cancelled")


async def test_invalid_state(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    for event in ("call:accept", "call:reject"):
        error = await alice.refused(event, {"callId": call}, code="invalid_state")
        assert error["message"] and error["callId"] == call
    answer = {"answer": {}, "from": alice.user, "to": bob.user}
    await alice.refused("call:answer", answer, code="invalid_state")
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call)
        for event in ("call:accept", "call:reject"):
            await client.refused(event, {"callId": call}, code="invalid_state")
    await end(alice, bob, call=call)


async def test_receiver_not_found(stage: Stage) -> None:
    alice, bob, carol = await stage.many("alice", "bob", "carol")
    offer = {"offer": {}, "from": alice.user}
    expected = _error("receiver_not_found", "Receiver not found")

    async def refused(**more: Any) -> None:
        error = await alice.refused("call:offer", {**offer, **more})
        error.pop("callId", None)
        assert error == expected, more

    await refused(to=bob.user)
    await refused(to=stage.id("nobody"))
    await refused(to=bob.user, callId="no-such-call")
    call = await ring(alice, bob)
    await refused(to=carol.user)
    await refused(to=carol.user, callId=call)
    await end(alice, bob, call=call, reason="cancelled")
    other = await talk(bob, carol)
    await refused(to=bob.user, callId=other)
    await end(bob, carol, call=other)


@pytest.mark.parametrize(("size", "fit"), [(100, 64), (60_000, 4)], ids=["64 messages", "256 KiB"])
async def test_rate_limited_early_media(stage: Stage, size: int, fit: int) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    offer = {"offer": {"sdp": "x" * size}, "from": alice.user, "to": bob.user}
    for _ in range(fit):
        await alice.ok("call:offer", offer)
    error = await alice.refused("call:offer", offer, code="rate_limited")
    assert error["retryable"] is True and error["retryAfterMs"] > 0
    assert len(await bob.inbox.expect_many("call:offer", fit)) == fit
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call)
    await alice.ok("call:offer", offer)
    await bob.expect("call:offer", callId=call)
    await end(alice, bob, call=call)


async def test_unavailable_while_call_control_does_not_answer(
    clusters: Clusters, shape: str, driver: NodeDriver | None
) -> None:
    cluster = await clusters.get(shape)
    stages = [Stage(cluster, usable(kind), driver) for kind in KINDS]
    pairs = [await stage.many("alice", "bob") for stage in stages]
    cluster.pause("callcore")
    try:
        initiate = [
            alice.refused("call:initiate", {"to": bob.user, "callType": "audio"}) for alice, bob in pairs
        ]
        for error in await asyncio.gather(*initiate):
            expected = {"code": "unavailable", "message": "Temporarily unavailable", "retryable": True}
            assert error == expected
    finally:
        cluster.resume("callcore")
        await cluster.ready()
    for stage, (alice, bob) in zip(stages, pairs, strict=True):
        await end(alice, bob, call=await talk(alice, bob))
        await stage.end()
        await stage.leave()
    await stages[0].clear()
