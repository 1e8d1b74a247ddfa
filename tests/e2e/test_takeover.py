"""A page that knows nothing of the page before it: it hears of its user's call as if for the first time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.test_resume import PATIENCE, SETTINGS, resume, tear
from tests.support.client import Client
from tests.support.cluster import Cluster
from tests.support.scenario import PYTHON, Stage, end, ring, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

OFFER = {"type": "offer", "sdp": "v=0"}
HOWS = ("plain", "device", "wrong token", "from the start")
"""How the new page joins. ``from the start``: it resumes, and has got nothing."""
CASES = [
    pytest.param(transport, how, id=f"{transport}-{how}")
    for transport in ("websocket", "polling")
    for how in HOWS
    # A poll that is not repeated is missed later; a new page that joins without its device is a second one until then.
    if (transport, how) not in (("polling", "plain"), ("polling", "wrong token"))
]
"""``stage`` and ``how``."""


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> Cluster:
    return await clusters.get("2x2x2", **SETTINGS)


@pytest_asyncio.fixture(loop_scope="session", params=("websocket", "polling"))
async def stage(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Stage]:
    async for stage in Stage.on(cluster, f"{PYTHON}-{request.param}", None):
        yield stage


async def lost(watch: Client, user: str) -> None:
    """Wait until it is known that the user's transport is broken."""
    async with asyncio.timeout(PATIENCE):
        while (await watch.ok("user:status", {"userId": user}))["isOnline"]:
            await asyncio.sleep(0.02)
    watch.inbox.forget()


def joining(old: Client, how: str) -> dict[str, Any]:
    """What the new page sends along."""
    if how == "device":
        return {"deviceId": "phone"}
    if how == "plain":
        return {}
    token = "wrong" if how == "wrong token" else ""
    return {"resume": {**resume(old, token), "lastSeq": 0}}


async def media(sender: Client, peer: str, call: str, numbers: range) -> None:
    """An offer for number 0, candidates for the others."""
    envelope = {"from": sender.user, "to": peer, "callId": call}
    for n in numbers:
        if n == 0:
            await sender.ok("call:offer", {"offer": OFFER, **envelope})
        else:
            await sender.ok("ice:candidate", {"candidate": {"n": n}, **envelope})


def heard(client: Client) -> list[Any]:
    """What a client has heard of calls, in order: events, and numbers for relays."""
    told = []
    for event, data in ((r.event, r.data) for r in client.inbox.all):
        if event == "call:offer":
            told.append(0)
        elif event == "ice:candidate":
            told.append(data["candidate"]["n"])
        elif event.startswith("call:"):
            told.append(event)
    return told


async def hears(client: Client, *expected: Any) -> None:
    """The client hears exactly that of calls, in that order."""
    async with asyncio.timeout(PATIENCE):
        while len(heard(client)) < len(expected):
            await asyncio.sleep(0.02)
    await client.settle()
    assert heard(client) == list(expected)
    client.inbox.forget()


async def broken(stage: Stage, client: Client, watch: Client, *, known: bool) -> None:
    """The transport of a client breaks. ``known``: wait until the server knows. A client that polls just stops."""
    if stage.transport == "websocket":
        await tear(client)
        if known:
            await lost(watch, client.user)


@pytest.mark.parametrize("gateway", [0, 1], ids=["other gateway", "same gateway"])
@pytest.mark.parametrize(("stage", "how"), CASES, indirect=["stage"])
async def test_a_callee_that_is_rung(stage: Stage, how: str, gateway: int) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = await stage.user("bob", gateway=1, **({"deviceId": "phone"} if how == "device" else {}))
    call = await ring(alice, bob)
    await media(alice, bob.user, call, range(3))
    await hears(bob, "call:incoming", 0, 1, 2)
    await broken(stage, bob, alice, known=True)
    await media(alice, bob.user, call, range(3, 5))  # into the mailbox
    page = await stage.socket("bob'", gateway=gateway)
    joined = await page.join(bob.user, **joining(bob, how))
    assert joined["sessionId"] == bob.session
    assert joined["resumed"] is (how == "from the start")
    assert "call" not in joined, "it rings, and is told by call:incoming"
    await media(alice, bob.user, call, range(5, 7))
    await hears(page, "call:incoming", 0, 1, 2, 3, 4, 5, 6)
    await page.ok("call:accept", {"callId": call})
    for client in (alice, page):
        await client.expect("call:accepted", callId=call)
    await media(alice, bob.user, call, range(7, 9))
    assert [(await page.expect("ice:candidate"))["candidate"]["n"] for _ in range(2)] == [7, 8]
    await end(page, alice, call=call)
    bob.inbox.forget()


async def test_a_callee_that_is_rung_comes_at_once(stage: Stage) -> None:
    """Whether its old socket is known to be broken or not, it hears all of the call once."""
    alice, bob = await stage.user("alice", gateway=0), await stage.user("bob", gateway=1)
    call = await ring(alice, bob)
    await media(alice, bob.user, call, range(3))
    await hears(bob, "call:incoming", 0, 1, 2)
    page = await stage.socket("bob'", gateway=0)
    if stage.transport == "websocket":
        await bob.tear()
    await page.join(bob.user)
    await media(alice, bob.user, call, range(3, 5))
    await hears(page, "call:incoming", 0, 1, 2, 3, 4)
    await end(alice, page, call=call, reason="cancelled")
    bob.inbox.forget()


async def test_amid_candidates(stage: Stage) -> None:
    """The caller sends all the time while the callee's page is loaded again and again."""
    alice = await stage.user("alice", gateway=0)
    bob = await stage.user("bob", gateway=1, deviceId="phone")
    call, sent, stop = await ring(alice, bob), 0, asyncio.Event()

    async def talk() -> None:
        nonlocal sent
        while not stop.is_set() and sent < 60:
            await media(alice, bob.user, call, range(sent, sent + 1))
            sent += 1
            await asyncio.sleep(0.02)

    talking = asyncio.create_task(talk())
    for round_ in range(4):
        await asyncio.sleep(0.2)
        page = await stage.socket(f"bob{round_}", gateway=round_ % 2)
        await page.join(bob.user, deviceId="phone")
    stop.set()
    await talking
    await hears(page, "call:incoming", *range(sent))
    await end(alice, page, call=call, reason="cancelled")
    for client in stage.clients:
        client.inbox.forget()


@pytest.mark.parametrize(("stage", "how"), CASES, indirect=["stage"])
async def test_a_caller_whose_call_rings(stage: Stage, how: str) -> None:
    alice = await stage.user("alice", gateway=0, **({"deviceId": "phone"} if how == "device" else {}))
    bob = await stage.user("bob", gateway=1)
    call = await ring(alice, bob)
    await media(bob, alice.user, call, range(3))  # early media the other way
    await hears(alice, "call:initiated", 0, 1, 2)
    await broken(stage, alice, bob, known=True)
    page = await stage.socket("alice'", gateway=1)
    joined = await page.join(alice.user, **joining(alice, how))
    assert joined["sessionId"] == alice.session
    assert joined["call"] == {"callId": call, "peer": bob.user, "callType": "audio", "state": "ringing"}
    await media(bob, alice.user, call, range(3, 5))
    await hears(page, "call:initiated", 0, 1, 2, 3, 4)
    assert page.inbox.seen("call:initiated")[0]["to"] == bob.user
    await bob.ok("call:accept", {"callId": call})
    for client in (bob, page):
        await client.expect("call:accepted", callId=call)
    await media(page, bob.user, call, range(3))
    assert [(await bob.expect("ice:candidate"))["candidate"]["n"] for _ in range(2)] == [1, 2]
    await bob.expect("call:offer")
    await end(page, bob, call=call)
    alice.inbox.forget()


@pytest.mark.parametrize("side", ["caller", "callee"])
@pytest.mark.parametrize(("stage", "how"), CASES, indirect=["stage"])
async def test_in_an_accepted_call(stage: Stage, how: str, side: str) -> None:
    names = ("bob", "alice") if side == "caller" else ("alice", "bob")
    device = {"deviceId": "phone"} if how == "device" else {}
    alice = await stage.user(names[0], gateway=0)
    bob = await stage.user(names[1], gateway=1, **device)
    call = await (talk(bob, alice) if side == "caller" else talk(alice, bob))
    await broken(stage, bob, alice, known=True)
    page = await stage.socket("page", gateway=0)
    ack = await page.ok("user:join", {"userId": bob.user, **joining(bob, how)})
    joined = await page.expect("user:joined")
    page.user = bob.user
    assert ack == {"ok": True, **joined}
    assert joined["call"] == {"callId": call, "peer": alice.user, "callType": "audio", "state": "accepted"}
    if how != "from the start":
        assert heard(page) == []
    await media(page, alice.user, call, range(2))
    await media(alice, page.user, call, range(2))
    for client in (page, alice):
        await client.expect("call:offer")
        await client.expect("ice:candidate")
    await end(alice, page, call=call)
    bob.inbox.forget()
    page.inbox.forget()


async def test_another_device_is_not_told_of_a_call_that_is_not_its_own(stage: Stage) -> None:
    alice, bob = await stage.user("alice", gateway=0), await stage.user("bob", gateway=1)
    call = await talk(alice, bob)
    tablet = await stage.socket("tablet", gateway=0)
    assert "call" not in await tablet.join(bob.user)
    again = await bob.ok("user:join", {"userId": bob.user})
    assert again["call"]["callId"] == call, "a session that is in a call is told of it whenever it joins"
    await bob.expect("user:joined")
    await end(alice, bob, call=call)
    await tablet.quiet()
    assert "call" not in await (await stage.socket("late", gateway=0)).join(bob.user)
