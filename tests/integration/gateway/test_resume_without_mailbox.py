"""NATS is killed and forgets the mailboxes; a client that resumes then hears each relay once and in order.

The sender's gateway sends relays of the last seconds again, because they may have been lost with NATS.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.raw_client import RawClient
from tests.support.two_gateways import PATIENCE, System

pytestmark = pytest.mark.timeout(120)

SENT = 20
MORE = 5


@pytest_asyncio.fixture
async def clients() -> AsyncIterator[list[RawClient]]:
    """Alice, bob, and bob when he comes back."""
    clients = [RawClient("alice"), RawClient("bob"), RawClient("bob")]
    yield clients
    for client in clients:
        await client.close()


def _numbers(client: RawClient) -> list[int]:
    return [
        received.data["candidate"]["n"] for received in client.inbox.all if received.event == "ice:candidate"
    ]


async def _send(alice: RawClient, call: str, numbers: range) -> None:
    for n in numbers:
        await alice.emit(
            "ice:candidate", {"candidate": {"n": n}, "from": "alice", "to": "bob", "callId": call}
        )


async def _resume(client: RawClient, known: dict[str, Any]) -> dict[str, Any]:
    """Try until NATS and the services are back."""
    async with asyncio.timeout(PATIENCE):
        while True:
            ack: dict[str, Any] = await client.ask("user:join", {"userId": "bob", "resume": known})
            if ack["ok"]:
                return ack
            assert ack["error"]["retryable"], ack
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("gateway", [0, 1], ids=["at another gateway", "at the same gateway"])
@pytest.mark.parametrize("heard", [SENT, 12], ids=["all heard", "some heard"])
async def test_each_relay_comes_once_when_nats_has_lost_the_mailbox(
    system: System, clients: list[RawClient], gateway: int, heard: int
) -> None:
    alice, bob, back = clients
    for client, at in ((alice, 0), (bob, 1)):
        await client.connect(system.gateways[at].url)
    await alice.join("alice")
    joined = await bob.join("bob")
    call = (await alice.ok("call:initiate", {"to": "bob", "callType": "audio"}))["callId"]
    await bob.expect("call:incoming")
    await bob.ok("call:accept", {"callId": call})
    await alice.expect("call:accepted")
    await _send(alice, call, range(SENT))
    async with asyncio.timeout(PATIENCE):
        while len(_numbers(bob)) < SENT:
            await asyncio.sleep(0.01)
    candidates = [r.data for r in bob.inbox.all if r.event == "ice:candidate"]
    # A client that its network has cut off in between has got no more than that.
    known = {
        "sessionId": joined["sessionId"],
        "token": joined["resume"]["token"],
        "lastSeq": candidates[heard - 1]["seq"],
    }

    await asyncio.to_thread(system.nats.kill)
    await bob.tear()
    await bob.close()
    await asyncio.to_thread(system.nats.start)
    await back.connect(system.gateways[gateway].url)
    joined = await _resume(back, known)
    assert joined["sessionId"] == known["sessionId"]
    assert not joined["resumed"], "NATS keeps mailboxes in memory"
    await _send(alice, call, range(SENT, SENT + MORE))
    async with asyncio.timeout(PATIENCE):
        while SENT + MORE - 1 not in _numbers(back):
            await asyncio.sleep(0.01)
    await asyncio.sleep(1.0)  # nothing comes a second time
    numbers = _numbers(back)
    # What the client had not heard may be lost: that is what `resumed: false` says.
    assert numbers == sorted(set(numbers)), numbers
    assert numbers[0] >= heard and numbers[-MORE:] == list(range(SENT, SENT + MORE)), numbers
