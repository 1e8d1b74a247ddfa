"""The protocol, row by row: ``user:join``, ``user:joined``, ``user:status``, devices that replace each other."""

import pytest

from tests.support.event_shapes import faults
from tests.support.scenario import PYTHON, Stage, end, ring, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


async def test_join_is_answered_with_joined(stage: Stage) -> None:
    client = await stage.socket("alice")
    user = stage.id("alice")
    ack = await client.ok("user:join", {"userId": user})
    joined = await client.expect("user:joined")

    assert joined["userId"] == user
    assert joined["socketId"] == client.socket_id
    assert joined["resumed"] is False
    assert joined["sessionId"] and joined["sessionId"] != joined["socketId"]
    assert set(joined["resume"]) == {"token", "windowSeconds"}
    assert joined["resume"]["token"] and joined["resume"]["windowSeconds"] == stage.cluster.window_seconds
    assert all("urls" in server for server in joined["iceServers"])
    assert ack | {"seq": 0} == joined | {"ok": True, "seq": 0}
    client.user = user


async def test_join_takes_every_optional_key_and_ignores_unknown_ones(stage: Stage) -> None:
    client = await stage.user("alice", token="any", deviceId="phone", somethingNew={"a": [1]})
    assert client.user == stage.id("alice")


async def test_status_follows_the_user(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")

    async def status(user: str) -> tuple[bool, bool]:
        ack = await alice.ok("user:status", {"userId": user})
        told = await alice.expect("user:status", userId=user)
        assert ack == told | {"ok": True}
        return told["isOnline"], told["isInCall"]

    assert await status(stage.id("nobody")) == (False, False)
    assert await status(bob.user) == (True, False)
    call = await ring(alice, bob)
    assert await status(bob.user) == (True, True), "a user who is rung is in a call"
    assert await status(alice.user) == (True, True)
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call)
    assert await status(bob.user) == (True, True)
    await end(bob, alice, call=call)
    assert await status(bob.user) == (True, False), "right the moment call:ended has been seen"
    assert await status(alice.user) == (True, False)


async def test_status_is_offline_after_leaving(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    await bob.disconnect()
    # A disconnect has no answer, so its effect can only be waited for.
    for _ in range(200):
        await alice.ok("user:status", {"userId": bob.user})
        if not (told := await alice.expect("user:status", userId=bob.user))["isOnline"]:
            break
    assert told == {"userId": bob.user, "isOnline": False, "isInCall": False}


async def test_join_again_with_the_device_replaces_its_socket(stage: Stage) -> None:
    old = await stage.user("alice", deviceId="phone")
    other = await stage.device(old, "tablet", deviceId="tablet")
    new = await stage.device(old, "phone again", deviceId="phone")

    replaced = await old.expect("session:replaced")
    assert replaced["sessionId"] == old.session
    await old.expect_closed()
    assert new.session == old.session, "the new socket takes the place of the old one"
    assert other.session != old.session and not other.closed.is_set()

    bob = await stage.user("bob")
    await bob.ok("call:initiate", {"to": new.user, "callType": "audio"})
    call = (await bob.expect("call:initiated"))["callId"]
    for device in (other, new):
        await device.expect("call:incoming", callId=call)
    assert not old.inbox.seen("call:incoming"), "a replaced socket does not ring"
    await end(bob, other, new, call=call, reason="cancelled")


async def test_replacing_the_socket_that_talks_keeps_the_call(stage: Stage) -> None:
    alice, bob = await stage.user("alice", deviceId="phone"), await stage.user("bob")
    call = await talk(alice, bob)
    again = await stage.device(alice, "alice again", deviceId="phone")
    await alice.expect("session:replaced")
    await alice.expect_closed()

    await again.ok("call:offer", {"offer": {"sdp": "x"}, "from": again.user, "to": bob.user})
    await bob.expect("call:offer", callId=call)
    await bob.ok("call:answer", {"answer": {"sdp": "y"}, "from": bob.user, "to": again.user})
    await again.expect("call:answer", callId=call)
    await end(bob, again, call=call)


async def test_replacing_the_socket_that_rings_rings_the_new_one(stage: Stage) -> None:
    alice, bob = await stage.user("alice"), await stage.user("bob", deviceId="phone")
    call = await ring(alice, bob)
    again = await stage.device(bob, "bob again", deviceId="phone")
    await bob.expect("session:replaced")
    await bob.expect_closed()
    await again.expect("call:incoming", callId=call)
    await again.ok("call:accept", {"callId": call})
    for client in (alice, again):
        await client.expect("call:accepted", callId=call, by=bob.user)
    await end(again, alice, call=call)


async def test_single_session_policy_replaces_whatever_was_there(clusters: Clusters) -> None:
    cluster = await clusters.get("1x1x1", SESSION_POLICY="single")
    stage = Stage(cluster, f"{PYTHON}-websocket", None)
    try:
        old = await stage.user("alice", deviceId="phone")
        new = await stage.device(old, "alice elsewhere", deviceId="tablet")
        assert (await old.expect("session:replaced"))["sessionId"] == old.session
        await old.expect_closed()
        bob = await stage.user("bob")
        call = await talk(bob, new)
        await end(new, bob, call=call)
        await stage.end()
        assert not faults(old.inbox.all)
    finally:
        await stage.leave()
        await clusters.drop(cluster)
