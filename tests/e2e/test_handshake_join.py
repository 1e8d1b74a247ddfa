"""Joining in the handshake, with the clients that people have: ``io(url, {auth: {userId, …}})``."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.client import WEBSOCKET, Client
from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver, missing
from tests.support.old_app import WAYS, NodeOldApp, free, talk
from tests.support.scenario import Stage, end, ring

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


async def _joined(stage: Stage, user: str, **auth: Any) -> tuple[Client, dict[str, Any]]:
    """A client that has joined in its handshake, and what it was told."""
    client = await stage.socket(user, auth={"userId": user, **auth})
    joined: dict[str, Any] = await client.expect("user:joined", userId=user, socketId=client.socket_id)
    client.user, client.session = user, joined["sessionId"]
    return client, joined


async def test_it_calls_and_is_called(stage: Stage) -> None:
    alice, _ = await _joined(stage, stage.id("alice"))
    bob, _ = await _joined(stage, stage.id("bob"))
    for caller, callee in ((alice, bob), (bob, alice)):
        await end(caller, callee, call=await ring(caller, callee), reason="cancelled")


async def test_a_device_that_rings(stage: Stage) -> None:
    """A device that joins while its user is rung gets ``call:incoming`` after ``user:joined``."""
    alice = await stage.user("alice")
    bob, _ = await _joined(stage, stage.id("bob"))
    call = await ring(alice, bob)
    other, _ = await _joined(stage, bob.user)
    await other.expect("call:incoming", callId=call)
    assert [received.event for received in other.inbox.all[:2]] == ["user:joined", "call:incoming"]
    await other.ok("call:accept", {"callId": call})
    for client in (alice, other):
        await client.expect("call:accepted", callId=call, by=bob.user)
    await bob.expect("call:ended", callId=call, reason="answered_elsewhere")
    await end(alice, other, call=call)


async def test_it_resumes(stage: Stage) -> None:
    """What was sent after ``lastSeq`` comes, whether the old connection had it, or was gone by then."""
    alice = await stage.user("alice")
    bob, first = await _joined(stage, stage.id("bob"))
    if gone := stage.transport == WEBSOCKET:
        await bob.tear()
        await bob.expect_closed()
    await alice.ok("call:initiate", {"to": bob.user, "callType": "audio"})
    call = (await alice.expect("call:initiated"))["callId"]
    if not gone:
        await bob.expect("call:incoming", callId=call)
    resume = {
        "sessionId": first["sessionId"],
        "token": first["resume"]["token"],
        "lastSeq": first["seq"],
    }
    back, again = await _joined(stage, bob.user, resume=resume)
    assert (again["resumed"], again["sessionId"]) == (True, first["sessionId"])
    await back.expect("call:incoming", callId=call)
    if not gone:
        await bob.expect("session:replaced", sessionId=first["sessionId"])
        await bob.expect_closed()
    await end(back, alice, call=call, reason="rejected")


async def test_its_device_is_replaced(stage: Stage) -> None:
    phone, first = await _joined(stage, stage.id("alice"), deviceId="phone")
    _, again = await _joined(stage, phone.user, deviceId="phone")
    assert again["sessionId"] == first["sessionId"]
    await phone.expect("session:replaced", sessionId=first["sessionId"])
    await phone.expect_closed()


async def test_the_event_counts_if_there_are_both(stage: Stage) -> None:
    alice, first = await _joined(stage, stage.id("alice"))
    ack = await alice.ok("user:join", {"userId": alice.user})
    await alice.expect("user:joined", socketId=alice.socket_id)
    assert ack["sessionId"] == first["sessionId"]
    await alice.refused("user:join", {"userId": stage.id("bob")}, code="unauthorized")
    await alice.settle()


# --- what the client library has kept while it was away --------------------------------------------------------------


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the official client connects."""
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def pair(
    big: Cluster, driver: NodeDriver | None, way: str
) -> AsyncIterator[tuple[NodeOldApp, NodeOldApp]]:
    """Two in a call, who join in the handshake each time they connect."""
    if driver is None:
        pytest.skip(str(missing()))
    token, apps = secrets.token_hex(4), []
    for number, name in enumerate(("alice", "bob")):
        app = NodeOldApp(driver, f"handshake-{name}-{token}", f"{name}-{token}")
        apps.append(app)
        options = {**WAYS[way], "auth": {"userId": app.user}}
        await app.start(big.gateways[number].url, options, {"joins": "in the handshake"})
        assert await app.do("joined")
    alice, bob = apps
    yield alice, bob
    for app in apps:
        await app.close()
    await big.assert_quiet()
    big.check_logs()


async def test_a_call_is_ended_that_the_user_hung_up_offline(pair: tuple[NodeOldApp, NodeOldApp]) -> None:
    """The library sends what it has kept before any ``connect`` listener runs; the join is before that."""
    alice, bob = pair
    call = await talk(alice, bob)
    await bob.do("breaks")
    await bob.do("end", call)
    for app in (alice, bob):
        ended = await app.nth("call:ended")
        assert (ended["callId"], ended["by"], ended["reason"]) == (call, bob.user, "hangup")
    assert await bob.count("user:joined") == 2
    await free(alice, bob)
    assert await bob.do("events", "error") == []


async def test_a_call_is_begun_that_was_dialled_offline(pair: tuple[NodeOldApp, NodeOldApp]) -> None:
    alice, bob = pair
    await bob.do("breaks")
    call = await bob.do("initiate", alice.user, "audio")
    await alice.nth("call:incoming")
    await alice.do("reject")
    assert (await bob.nth("call:rejected"))["callId"] == call
    assert await bob.do("events", "error") == []
