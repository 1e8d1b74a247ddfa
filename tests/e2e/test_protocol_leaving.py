"""The protocol, row by row: what the peer is told when somebody leaves, on purpose or not."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.client import WEBSOCKET, Client
from tests.support.node_client import NodeDriver
from tests.support.scenario import KINDS, Stage, end, ring, talk, usable
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


# A polling client that goes silent is only missed after the ping timeout, so it cannot break in a moment.
WAYS = [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS if kind.endswith(WEBSOCKET)]


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{'broken' if way[1] else 'disconnect'}")
def way(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """Clients, and whether they leave by a transport that breaks or with a disconnect packet."""
    kind, torn = request.param
    return usable(kind), torn


@pytest.fixture
def kind(way: tuple[str, bool]) -> str:
    """The kind of the clients on the stage."""
    return way[0]


@pytest.fixture
def torn(way: tuple[str, bool]) -> bool:
    """Whether transports break."""
    return way[1]


@pytest_asyncio.fixture(loop_scope="session")
async def stage(clusters: Clusters, shape: str, kind: str, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """A stage where a session whose transport broke is given up after a second."""
    cluster = await clusters.get(shape, RESUME_WINDOW_SECONDS="1")
    async for stage in Stage.on(cluster, kind, driver):
        yield stage


async def _go(client: Client, *, torn: bool) -> None:
    if torn:
        await client.tear()
        await client.expect_closed()
    else:
        await client.disconnect()


def _lost(torn: bool, otherwise: str) -> str:
    return "connection_lost" if torn else otherwise


@pytest.mark.parametrize("caller_leaves", [True, False], ids=["caller", "callee"])
async def test_leaving_an_accepted_call(stage: Stage, torn: bool, caller_leaves: bool) -> None:
    alice, bob, carol = await stage.many("alice", "bob", "carol")
    call = await talk(alice, bob)
    leaver, stayer = (alice, bob) if caller_leaves else (bob, alice)
    await _go(leaver, torn=torn)
    ended = await stayer.expect("call:ended")
    expected = {
        "callId": call,
        "by": leaver.user,
        "reason": _lost(torn, "hangup"),
        "seq": ended["seq"],
    }
    assert ended == expected
    await end(carol, stayer, call=await talk(carol, stayer))


async def test_the_caller_leaves_while_it_rings(stage: Stage, torn: bool) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    await _go(alice, torn=torn)
    await bob.expect("call:ended", callId=call, by=alice.user, reason=_lost(torn, "cancelled"))


async def test_the_last_ringing_device_leaves(stage: Stage, torn: bool) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await ring(alice, bob)
    await _go(bob, torn=torn)
    await alice.expect("call:ended", callId=call, by=bob.user, reason="connection_lost")


async def test_a_device_outside_the_call_leaves(stage: Stage, torn: bool) -> None:
    alice, bob = await stage.many("alice", "bob")
    tablet = await stage.device(alice, "tablet")
    call = await talk(alice, bob)
    await _go(tablet, torn=torn)
    await alice.ok("call:offer", {"offer": {"sdp": "x"}, "from": alice.user, "to": bob.user})
    await bob.expect("call:offer", callId=call)
    await end(alice, bob, call=call)


async def test_a_user_who_left_cannot_be_called(stage: Stage, torn: bool) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    await _go(bob, torn=torn)
    await alice.expect("call:ended", callId=call)
    await alice.refused("call:initiate", {"to": bob.user, "callType": "audio"}, code="user_not_found")
