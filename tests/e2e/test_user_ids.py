"""User ids with every character that could mean something to somebody: real calls, and no cross-talk."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.client import Client
from tests.support.cluster import Cluster
from tests.support.scenario import PYTHON, Stage, end, ring, talk

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

# Each with what it could be taken for: subject wildcards, separators, our own escapes, paths, other users.
IDS = (
    "a",
    "*",
    "a.b",
    "a.*",
    "a.>",
    ">",
    ".",
    "..",
    "a b",
    " ",
    "a/b",
    "../../etc/passwd",
    "$SYS",
    "$KV.calls.user.a",
    "a=2Eb",
    "=",
    "a%2Eb",
    "A",
    "-",
    "server",
    "null",
    "0",
    "__proto__",
    '"a"',
    "\\",
    "a\u2028b",
    "ä",
    "a\u0308",
    "👋",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "مرحبا",
    "x" * 128,
    "." * 128,
    "👋" * 128,
    "\U0001f44d" * 128,
)
REFUSED = ("", "x" * 129, "👋" * 129, "a\nb", "a\r", "\t", "a\0", "\x7f", "\x85")


@pytest_asyncio.fixture(loop_scope="session")
async def scene(big: Cluster) -> AsyncIterator[Stage]:
    """A stage on 2x2x2."""
    async for stage in Stage.on(big, f"{PYTHON}-websocket", None):
        yield stage


async def _online(stage: Stage) -> list[Client]:
    clients = []
    for number, user in enumerate(IDS):
        client = await stage.socket(repr(user)[:20], gateway=number)
        await client.join(user)
        assert client.user == user
        clients.append(client)
    return clients


async def _media(call: str, one: Client, other: Client) -> None:
    for event, key, sender, receiver in (
        ("call:offer", "offer", one, other),
        ("call:answer", "answer", other, one),
        ("ice:candidate", "candidate", one, other),
    ):
        body = {"of": sender.user}
        await sender.ok(event, {key: body, "from": sender.user, "to": receiver.user, "callId": call})
        got = await receiver.expect(event, callId=call)
        assert got[key] == body and got["from"] == sender.user


async def test_calls_between_users_with_odd_ids(scene: Stage) -> None:
    clients = await _online(scene)
    for shift in (1, 7):
        # All at once, every user in exactly one call; then with other partners.
        order = [clients[(n * shift) % len(clients)] for n in range(len(clients))]
        pairs = list(zip(order[::2], order[1::2], strict=True))
        assert len({client.user for pair in pairs for client in pair}) == len(clients)
        calls = await asyncio.gather(*(talk(*pair) for pair in pairs))
        await asyncio.gather(*(_media(call, *pair) for call, pair in zip(calls, pairs, strict=True)))
        await asyncio.gather(*(end(*pair, call=call) for call, pair in zip(calls, pairs, strict=True)))
        for client in clients:
            await client.quiet()


async def test_status_of_users_with_odd_ids(scene: Stage) -> None:
    clients = await _online(scene)
    asker = await scene.user("asker")
    for client in clients:
        await asker.ok("user:status", {"userId": client.user})
        told = await asker.expect("user:status")
        assert told == {"userId": client.user, "isOnline": True, "isInCall": False}
    for stranger in ("a.c", "b", "**", "a\u00a0b", "👋" * 127):
        await asker.ok("user:status", {"userId": stranger})
        told = await asker.expect("user:status")
        assert told == {"userId": stranger, "isOnline": False, "isInCall": False}


async def test_call_ids_that_a_client_makes_up(scene: Stage) -> None:
    """A client's word for a call goes into a subject too, together with both user ids."""
    long_one, long_other = "👋" * 128, "\U0001f44d" * 128
    alice = await scene.socket("alice", gateway=0)
    await alice.join(long_one)
    bob = await scene.socket("bob", gateway=1)
    await bob.join(long_other)
    call = await ring(alice, bob)
    for made_up in (
        "*",
        ">",
        "a.b",
        "-",
        "$JS.API",
        " ",
        "👋" * 128,
        "." * 128,
        f"{call}.*",
        call.swapcase(),
    ):
        for event in ("call:accept", "call:reject", "call:end"):
            await bob.refused(event, {"callId": made_up}, code="call_not_found")
        candidate = {"candidate": {"x": 1}, "from": alice.user, "to": bob.user, "callId": made_up}
        await alice.refused("ice:candidate", candidate, code="receiver_not_found")
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call)
    await _media(call, alice, bob)
    await end(alice, bob, call=call)


@pytest.mark.parametrize("user", REFUSED, ids=ascii)
async def test_ids_that_are_refused(scene: Stage, user: str) -> None:
    client = await scene.socket("nobody")
    error = await client.refused("user:join", {"userId": user})
    assert error["code"] == ("bad_request" if user else "user_id_required")
    await client.join(scene.id("somebody"))
    await client.refused("call:initiate", {"to": user, "callType": "audio"}, code="bad_request")
    await client.refused("user:status", {"userId": user}, code="bad_request")
