"""SIGKILL of a service while a hundred calls are being set up: both sides of every call agree, nobody stays busy."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.support.call_outcome import agreed
from tests.support.client import Client
from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage, end, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

CALLS = 100
RING_SECONDS = 8
TRIES = 5
PATIENCE = 60.0
# What a service may say when its neighbour was killed: all of it is a warning, and the sweep may have work.
ALLOWED = ("reconciled: ",)


@pytest_asyncio.fixture(loop_scope="session")
async def mortal(clusters: Clusters, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """A stage on a 2x2x2 of its own, whose calls ring for a moment only and which sweeps often."""
    cluster = await clusters.get("2x2x2", ring_seconds=RING_SECONDS, SWEEP_SECONDS="2")
    async for stage in Stage.crowd(cluster, driver):
        yield stage
        cluster.allowed = ALLOWED


class Setup:
    """One pair on the way from two sockets to a call that is over, through whatever happens meanwhile."""

    def __init__(self, stage: Stage, number: int) -> None:
        self._stage = stage
        self.number = number
        self.calls: list[str] = []
        self.errors: Counter[str] = Counter()
        self.alice: Client
        self.bob: Client

    async def join(self) -> None:
        """Both are connected and joined."""
        self.alice, self.bob = await asyncio.gather(
            self._joined(f"a{self.number}", self.number), self._joined(f"b{self.number}", self.number + 1)
        )

    async def call(self) -> None:
        """Place the call, accept it, end it; whatever is answered with ``unavailable`` is tried again."""
        ack = await self._ask(self.alice, "call:initiate", {"to": self.bob.user, "callType": "audio"})
        if not ack["ok"]:
            # Nobody knows whether that one came about; if it did, both are told, and it rings for a moment only.
            assert ack["error"]["code"] in ("unavailable", "already_in_call"), ack
            await self._until_over()
            return
        call = (await self.alice.expect("call:initiated", timeout=PATIENCE))["callId"]
        incoming = await self.bob.inbox.expect_any(
            "call:incoming", "call:ended", callId=call, timeout=PATIENCE
        )
        if incoming.event == "call:incoming":
            await self._ask(self.bob, "call:accept", {"callId": call})
            await self.alice.inbox.expect_any("call:accepted", "call:ended", callId=call, timeout=PATIENCE)
            await self._ask(self.alice, "call:end", {"callId": call})
        await self._until_over()

    async def _until_over(self) -> None:
        """Wait until both sides have been told the end of every call that either has been told of."""
        told = ("call:initiated", "call:incoming", "call:accepted")
        for client, other in ((self.alice, self.bob), (self.bob, self.alice)):
            for call in dict.fromkeys(data["callId"] for event in told for data in client.inbox.seen(event)):
                for side in (client, other):
                    if not side.inbox.seen("call:ended", callId=call):
                        await side.expect("call:ended", callId=call, timeout=PATIENCE)
                if call not in self.calls:
                    self.calls.append(call)

    async def _joined(self, name: str, gateway: int) -> Client:
        client = await self._stage.socket(name, gateway=gateway)
        ack = await self._ask(client, "user:join", {"userId": self._stage.id(name)})
        assert ack["ok"], f"{name} cannot join: {ack}"
        joined = await client.expect("user:joined", timeout=PATIENCE)
        client.user, client.session = joined["userId"], joined["sessionId"]
        return client

    async def _ask(self, client: Client, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(TRIES):
            ack: dict[str, Any] = await client.ask(event, payload, timeout=PATIENCE)
            if not ack["ok"]:
                await client.expect("error", event=event)
                self.errors[ack["error"]["code"]] += 1
            if ack["ok"] or not ack["error"]["retryable"]:
                break
            await asyncio.sleep(0.2 * 2**attempt)  # what a client is told to do
        return ack


async def _kill_amid(stage: Stage, victim: str, setups: list[Setup]) -> None:
    """Set up all calls, a few at a time, and kill ``victim`` when a third of them has come about."""
    progress = asyncio.Event()
    done = 0

    async def set_up(setup: Setup, free: asyncio.Semaphore) -> None:
        nonlocal done
        async with free:
            await setup.join()
            await setup.call()
            done += 1
            if done >= CALLS // 3:
                progress.set()

    async def kill() -> None:
        await asyncio.wait_for(progress.wait(), PATIENCE)
        stage.cluster.kill(victim)

    free = asyncio.Semaphore(30)
    await asyncio.gather(kill(), *(set_up(setup, free) for setup in setups))


@pytest.mark.parametrize("victim", ["cc-1", "cc-2", "pr-1", "pr-2"])
async def test_killed_while_calls_are_set_up(
    mortal: Stage, victim: str, record_property: Callable[[str, object], None]
) -> None:
    setups = [Setup(mortal, number) for number in range(CALLS)]
    await _kill_amid(mortal, victim, setups)

    outcomes: Counter[str] = Counter()
    for setup in setups:
        for call in setup.calls:
            known = agreed(setup.alice, setup.bob, call)
            outcomes[str(known.ends[0][1])] += 1
    errors: Counter[str] = Counter()
    for setup in setups:
        errors.update(setup.errors)
    record_property("outcomes", dict(outcomes))
    record_property("errors", dict(errors))
    assert outcomes["hangup"] >= CALLS // 2, "most calls do not notice"

    for setup in setups:
        setup.alice.inbox.forget()
        setup.bob.inbox.forget()
    await mortal.cluster.assert_quiet(RING_SECONDS + 15)
    await asyncio.gather(*(_talk_again(setup) for setup in setups))

    mortal.cluster.restart(victim)
    await mortal.cluster.ready()


async def _talk_again(setup: Setup) -> None:
    await end(setup.bob, setup.alice, call=await talk(setup.bob, setup.alice))


async def test_a_ring_deadline_survives_its_callcore(clusters: Clusters, mortal: Stage) -> None:
    cluster: Cluster = mortal.cluster
    pairs = await mortal.pairs(20)
    for alice, bob in pairs:
        await alice.ok("call:initiate", {"to": bob.user, "callType": "audio"})
    cluster.kill("cc-1")
    try:
        for alice, bob in pairs:
            initiated, incoming = await alice.expect("call:initiated"), await bob.expect("call:incoming")
            assert initiated["callId"] == incoming["callId"]
            for client in (alice, bob):
                ended = await client.expect("call:ended", timeout=RING_SECONDS + 15)
                assert (ended["callId"], ended["by"], ended["reason"]) == (
                    incoming["callId"],
                    "server",
                    "timeout",
                )
    finally:
        cluster.restart("cc-1")
        await cluster.ready()


AT_ONCE = 60
HEARD_SECONDS = 10.0
"""How long what was acknowledged may take to be heard: far less than the dead one stays dead."""


@pytest.mark.parametrize("victim", ["cc-1", "cc-2"])
async def test_accepts_amid_which_a_callcore_dies_are_heard_while_it_stays_dead(
    mortal: Stage, victim: str
) -> None:
    """An accept that is acknowledged is heard by both sides, whoever it was passed on to."""
    pairs = await mortal.pairs(AT_ONCE)
    calls: list[str] = []
    for alice, bob in pairs:
        calls.append((await alice.ok("call:initiate", {"to": bob.user, "callType": "audio"}))["callId"])

    async def accept(bob: Client, call: str) -> dict[str, Any]:
        ack: dict[str, Any] = await bob.ask("call:accept", {"callId": call}, timeout=PATIENCE)
        if not ack["ok"]:
            await bob.expect("error", event="call:accept")
        return ack

    accepts = [asyncio.create_task(accept(bob, call)) for (_, bob), call in zip(pairs, calls, strict=True)]
    while not any(each.done() for each in accepts):
        await asyncio.sleep(0.001)
    mortal.cluster.kill(victim)
    try:
        acks = await asyncio.gather(*accepts)
        for (alice, bob), call, ack in zip(pairs, calls, acks, strict=True):
            if ack["ok"]:
                for client in (alice, bob):
                    await client.expect("call:accepted", callId=call, timeout=HEARD_SECONDS)
            else:
                assert ack["error"]["code"] == "unavailable", ack
        for (alice, _), call in zip(pairs, calls, strict=True):
            await alice.ask("call:end", {"callId": call}, timeout=PATIENCE)
        for (alice, bob), call in zip(pairs, calls, strict=True):
            for client in (alice, bob):
                await client.expect("call:ended", callId=call, timeout=PATIENCE)
            agreed(alice, bob, call)
        for client in mortal.clients:
            client.inbox.forget()
    finally:
        mortal.cluster.restart(victim)
        await mortal.cluster.ready()


async def test_users_of_calls_that_a_paused_callcore_made_fail_are_free(mortal: Stage) -> None:
    """Nobody is shown in a call that did not come about, and both may call again at once."""
    pairs = await mortal.pairs(20)

    async def call(alice: Client, bob: Client) -> bool:
        ack: dict[str, Any] = await alice.ask(
            "call:initiate", {"to": bob.user, "callType": "audio"}, timeout=PATIENCE
        )
        if ack["ok"]:
            await end(alice, bob, call=ack["callId"], reason="cancelled")
            return True
        assert ack["error"]["code"] == "unavailable", ack
        await alice.expect("error", event="call:initiate")
        await asyncio.sleep(1)  # the gateway gives the call up meanwhile
        for client, other in ((alice, bob), (bob, alice)):
            status: dict[str, Any] = await client.ok("user:status", {"userId": other.user})
            if status["isInCall"]:  # it came about after all, and is told
                await alice.expect("call:initiated", timeout=HEARD_SECONDS)
                return False
        again: dict[str, Any] = await bob.ok("call:initiate", {"to": alice.user, "callType": "audio"})
        await end(bob, alice, call=again["callId"], reason="cancelled")
        return False

    mortal.cluster.pause_one("cc-1")
    try:
        call_setup = [asyncio.create_task(call(*pair)) for pair in pairs]
        await asyncio.sleep(2)
    finally:
        mortal.cluster.resume_one("cc-1")
    await asyncio.gather(*call_setup)
    for client in mortal.clients:
        client.inbox.forget()
    await mortal.cluster.assert_quiet(RING_SECONDS + 15)
