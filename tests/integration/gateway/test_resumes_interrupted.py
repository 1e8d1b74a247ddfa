"""Clients that are gone again before they have heard that they are back come back once more, with nothing missed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from shared import subjects
from shared.nats import streams
from shared.nats.connection import Bus
from tests.support.raw_client import RawClient
from tests.support.two_gateways import System, differences

pytestmark = pytest.mark.timeout(120)

ROUNDS = 30
PATIENCE = 20.0


Clients = Callable[[str], RawClient]


@pytest_asyncio.fixture
async def clients() -> AsyncIterator[Clients]:
    """Make clients by their names; they are closed at the end, whatever has failed."""
    made: list[RawClient] = []

    def one(name: str) -> RawClient:
        made.append(RawClient(name))
        return made[-1]

    yield one
    await asyncio.gather(*(client.close() for client in made))


class Bob:
    """A client that resumes, here or there, with what it got last."""

    def __init__(self, system: System, clients: Clients) -> None:
        self._system = system
        self._clients = clients
        self.known: dict[str, Any] = {}
        self.heard: list[int] = []

    async def connect(self, gateway: int) -> RawClient:
        client = self._clients("bob")
        await client.connect(self._system.gateways[gateway].url)
        return client

    def join(self) -> dict[str, Any]:
        return {"userId": "bob", **({"resume": self.known} if self.known else {})}

    def learn(self, client: RawClient) -> None:
        """What a client has got since the last time counts as got from now on."""
        seqs = [self.known.get("lastSeq", 0)]
        for received in client.inbox.all:
            seqs.append(received.data.get("seq", 0))
            if received.event == "user:joined":
                joined = received.data
                self.known = {"sessionId": joined["sessionId"], "token": joined["resume"]["token"]}
            elif received.event == "ice:candidate":
                self.heard.append(received.data["candidate"]["n"])
        self.known["lastSeq"] = max(seqs)
        client.inbox.forget()
        client.inbox.all.clear()


async def test_a_client_torn_away_while_it_resumes_misses_nothing(system: System, clients: Clients) -> None:
    alice, bob = clients("alice"), Bob(system, clients)
    await alice.connect(system.gateways[0].url)
    await alice.join("alice")
    now = await bob.connect(1)
    await now.join("bob")
    call = (await alice.ok("call:initiate", {"to": "bob", "callType": "audio"}))["callId"]
    await now.expect("call:incoming")
    await now.ok("call:accept", {"callId": call})
    await alice.expect("call:accepted")
    over, sent = asyncio.Event(), 0

    async def talk() -> None:
        nonlocal sent
        while not over.is_set():
            candidate = {"candidate": {"n": sent}, "from": "alice", "to": "bob", "callId": call}
            await alice.emit("ice:candidate", candidate)
            sent += 1
            await asyncio.sleep(0.01)

    talking = asyncio.create_task(talk())
    unheard, history = 0, []
    for round_ in range(ROUNDS):
        await asyncio.sleep(0.05)
        await now.tear()
        await now.close()
        bob.learn(now)
        now = await bob.connect(round_ % 2)
        # Gone after a while that is long enough for all of it, or for a part.
        await now.send("42" + json.dumps(["user:join", bob.join()]))
        await asyncio.sleep(0.004 * (round_ % 20))
        if not now.inbox.seen("user:joined"):
            unheard += 1
            await asyncio.sleep(0.1)  # it may hear yet; nobody tries again at once
        history.append((round_, now.closed.is_set(), [r.event for r in now.inbox.all][:3], len(bob.heard)))
    await now.tear()
    await now.close()
    bob.learn(now)
    now = await bob.connect(0)
    joined = await now.join("bob", resume=bob.known)
    assert joined["resumed"] and joined["sessionId"] == bob.known["sessionId"], history
    over.set()
    await talking
    until = time.monotonic() + PATIENCE
    while bob.heard[-1:] != [sent - 1] and time.monotonic() < until:
        await asyncio.sleep(0.02)
        bob.learn(now)
    assert not alice.inbox.seen("error"), alice.inbox.seen("error")[:3]
    await alice.settle()  # what she has sent before was read
    assert bob.heard == list(range(sent)), (differences(bob.heard, sent), history)
    assert unheard >= 5, "some were to be gone before they heard"
    await alice.ok("call:end", {"callId": call})
    await now.expect("call:ended")


async def test_a_spent_resume_token_is_valid_until_the_next_is_confirmed(
    system: System, clients: Clients
) -> None:
    bob = Bob(system, clients)
    now = await bob.connect(0)
    await now.join("bob", deviceId="phone")
    bob.learn(now)
    first = bob.known
    await now.tear()
    await now.close()
    now = await bob.connect(1)
    assert (await now.join("bob", resume=first))["resumed"]
    bob.learn(now)
    await asyncio.sleep(0.3)  # it has answered
    await now.tear()
    await now.close()
    thief = await bob.connect(0)
    assert not (await thief.join("bob", deviceId="tablet", resume=first))["resumed"]
    again = await bob.connect(1)
    assert (await again.join("bob", resume=bob.known))["resumed"]


async def test_an_unreadable_mailbox_ends_no_session(system: System, bus: Bus, clients: Clients) -> None:
    """The client is told to come again, and its token is good for that; what is lost, only the mailbox says."""
    alice, bob = clients("alice"), Bob(system, clients)
    await alice.connect(system.gateways[0].url)
    await alice.join("alice")
    now = await bob.connect(1)
    await now.join("bob")
    call = (await alice.ok("call:initiate", {"to": "bob", "callType": "audio"}))["callId"]
    await now.expect("call:incoming")
    await now.ok("call:accept", {"callId": call})
    await now.tear()
    await now.close()
    bob.learn(now)
    await streams.api(bus, f"STREAM.DELETE.{subjects.STREAM_DELIVER}", {})
    for gateway in (0, 1):
        now = await bob.connect(gateway)
        ack = await now.ask("user:join", bob.join(), timeout=2 * PATIENCE)
        assert (ack["ok"], ack["error"]["code"], ack["error"]["retryable"]) == (False, "unavailable", True)
        if gateway == 0:
            await now.close()
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)
    ack = await now.ask("user:join", bob.join(), timeout=PATIENCE)
    assert ack["sessionId"] == bob.known["sessionId"] and not ack["resumed"], "the stream is new"
    await alice.ok("call:end", {"callId": call})
    await now.expect("call:ended")
