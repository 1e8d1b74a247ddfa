"""The protocol, row by row: placing, accepting, rejecting and ending a call."""

import time

import pytest

from tests.support.scenario import Stage, end, ring, talk

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


@pytest.mark.parametrize("call_type", ["audio", "video"])
async def test_initiate_rings_the_callee(stage: Stage, call_type: str) -> None:
    alice, bob = await stage.many("alice", "bob")
    metadata = {"title": "Grüße 👋", "nested": [1, 2.5, None, {"a": True}]}
    before = time.time() * 1000
    ack = await alice.ok("call:initiate", {"to": bob.user, "callType": call_type, "metadata": metadata})
    initiated = await alice.expect("call:initiated")
    incoming = await bob.expect("call:incoming")
    after = time.time() * 1000

    call, expires = initiated["callId"], initiated["expiresAt"]
    left = [message["expiresInMs"] for message in (initiated, ack, incoming)]
    told = {"callId": call, "to": bob.user, "expiresAt": expires}
    assert initiated == {**told, "expiresInMs": left[0], "seq": initiated["seq"]}
    assert ack == {"ok": True, **told, "expiresInMs": left[1]}
    assert incoming == {
        "from": alice.user,
        "callType": call_type,
        "callId": call,
        "metadata": metadata,
        "expiresAt": expires,
        "expiresInMs": left[2],
        "seq": incoming["seq"],
    }
    assert len(call) >= 22, "128 random bits"
    ring_ms = stage.cluster.ring_seconds * 1000
    assert before + ring_ms - 1 <= expires <= after + ring_ms
    assert all(expires - after - 1 <= each <= ring_ms for each in left), (left, ring_ms, after - before)
    await end(alice, bob, call=call, reason="cancelled")


async def test_initiate_without_metadata_shows_none(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    await alice.ok("call:initiate", {"to": bob.user, "callType": "audio"})
    incoming = await bob.expect("call:incoming")
    assert set(incoming) == {"from", "callType", "callId", "expiresAt", "expiresInMs", "seq"}
    await alice.expect("call:initiated")
    await end(alice, bob, call=incoming["callId"], reason="cancelled")


async def test_accept_tells_both(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    ack = await bob.ok("call:accept", {"callId": call})
    assert ack == {"ok": True, "callId": call}
    for client in (alice, bob):
        accepted = await client.expect("call:accepted")
        assert accepted == {"callId": call, "by": bob.user, "seq": accepted["seq"]}
    await end(alice, bob, call=call)


CALLER = ["caller", "callee", "stranger", "", "x" * 1000, "a\nb", None]
"""Values of ``from``: the caller as in clients of the old server, the sender, anything."""


@pytest.mark.parametrize("said", CALLER, ids=lambda said: repr(said)[:12])
@pytest.mark.parametrize("event", ["call:accept", "call:reject"])
async def test_from_of_an_answer_to_a_call_is_not_used(stage: Stage, event: str, said: str | None) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    from_ = {"caller": alice.user, "callee": bob.user}.get(said or "", said)
    assert await bob.ok(event, {"callId": call, "from": from_}) == {"ok": True, "callId": call}
    for client in (alice, bob):
        told = await client.expect("call:accepted" if event == "call:accept" else "call:rejected")
        assert told == {"callId": call, "by": bob.user, "seq": told["seq"]}
    if event == "call:accept":
        await end(alice, bob, call=call)


@pytest.mark.parametrize("event", ["call:accept", "call:reject"])
async def test_from_of_an_answer_to_a_call_is_text(stage: Stage, event: str) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    for wrong in (7, True, {}, [alice.user], {"id": alice.user}):
        error = await bob.refused(event, {"callId": call, "from": wrong}, code="bad_request")
        assert error["message"].startswith("from: "), error
    await end(alice, bob, call=call, reason="cancelled")


async def test_from_of_an_answer_gives_no_rights(stage: Stage) -> None:
    """Who is not called cannot answer in the name of the callee, nor the caller."""
    alice, bob, carol = await stage.many("alice", "bob", "carol")
    call = await ring(alice, bob)
    for event in ("call:accept", "call:reject"):
        for user in (alice.user, bob.user, carol.user):
            await carol.refused(event, {"callId": call, "from": user}, code="call_not_found")
            await alice.refused(event, {"callId": call, "from": user}, code="invalid_state")
    await end(alice, bob, call=call, reason="cancelled")


@pytest.mark.parametrize("reason", [None, "busy", "not_now_2"])
async def test_reject_tells_both(stage: Stage, reason: str | None) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    told = {} if reason is None else {"reason": reason}
    ack = await bob.ok("call:reject", {"callId": call, **told})
    assert ack == {"ok": True, "callId": call}
    for client in (alice, bob):
        rejected = await client.expect("call:rejected")
        assert rejected == {"callId": call, "by": bob.user, "seq": rejected["seq"], **told}
    await alice.refused("call:end", {"callId": call}, code="call_not_found")
    await end(bob, alice, call=await talk(bob, alice))


@pytest.mark.parametrize("by_caller", [True, False])
@pytest.mark.parametrize("reason", [None, "ice_failed", "my_own_word"])
async def test_end_of_an_accepted_call_tells_both(stage: Stage, by_caller: bool, reason: str | None) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    who = alice if by_caller else bob
    ack = await who.ok("call:end", {"callId": call} | ({} if reason is None else {"reason": reason}))
    assert ack == {"ok": True, "callId": call}
    for client in (alice, bob):
        ended = await client.expect("call:ended")
        expected = {"callId": call, "by": who.user, "reason": reason or "hangup", "seq": ended["seq"]}
        assert ended == expected


@pytest.mark.parametrize("reason", [None, "changed_my_mind"])
async def test_end_by_the_caller_while_ringing_cancels(stage: Stage, reason: str | None) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    await alice.ok("call:end", {"callId": call} | ({} if reason is None else {"reason": reason}))
    for client in (alice, bob):
        ended = await client.expect("call:ended")
        expected = {"callId": call, "by": alice.user, "reason": reason or "cancelled", "seq": ended["seq"]}
        assert ended == expected


async def test_end_by_the_callee_while_ringing_rejects(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    await end(bob, alice, call=call, reason="rejected")


async def test_ring_timeout_is_told_to_both(hasty: Stage) -> None:
    alice, bob = await hasty.many("alice", "bob")
    await alice.ok("call:initiate", {"to": bob.user, "callType": "audio"})
    initiated, incoming = await alice.expect("call:initiated"), await bob.expect("call:incoming")
    for client in (alice, bob):
        ended = await client.expect("call:ended")
        expected = {
            "callId": incoming["callId"],
            "by": "server",
            "reason": "timeout",
            "seq": ended["seq"],
        }
        assert ended == expected
    late = time.time() * 1000 - initiated["expiresAt"]
    assert 0 <= late < 3000, f"timed out {late} ms late"
    await bob.refused("call:accept", {"callId": incoming["callId"]}, code="call_not_found")


async def test_an_accepted_call_does_not_time_out(hasty: Stage) -> None:
    alice, bob = await hasty.many("alice", "bob")
    call = await talk(alice, bob)
    with pytest.raises(AssertionError, match="got no call:ended"):
        await bob.expect("call:ended", timeout=hasty.cluster.ring_seconds + 0.5)
    await end(alice, bob, call=call)


async def test_glare_makes_one_call_accepted_at_once(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    ack = await bob.ok("call:initiate", {"to": alice.user, "callType": "audio"})
    answered = await bob.expect("call:initiated")
    assert (answered["callId"], answered["to"]) == (call, alice.user)
    assert ack["callId"] == call
    assert all(0 < told["expiresInMs"] <= stage.cluster.ring_seconds * 1000 for told in (ack, answered))
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call, by=bob.user)
    await end(alice, bob, call=call)


async def test_calls_follow_each_other(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    ids = set()
    for caller, callee in ((alice, bob), (bob, alice), (alice, bob)):
        call = await talk(caller, callee)
        ids.add(call)
        await end(callee, caller, call=call)
    assert len(ids) == 3
