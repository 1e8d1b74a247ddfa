"""Races on two of each service: whoever is first, both sides know the same, and nothing is left behind."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.support.call_outcome import agreed
from tests.support.client import Client
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage, end, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300), pytest.mark.large]

PAIRS = 200
CALLERS = 50
BATCH = 50
NEARLY_MS = (-40, 15)
"""Around the deadline: what is sent this much before it or after it may come before it or after it."""
PATIENCE = 60.0


@pytest_asyncio.fixture(loop_scope="session")
async def crowd(clusters: Clusters, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """A stage on 2x2x2 for many clients, who ask all at once: what takes long is not refused for it."""
    cluster = await clusters.get("2x2x2", REQUEST_TIMEOUT_SECONDS="20")
    async for stage in Stage.crowd(cluster, driver):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def hasty_crowd(clusters: Clusters, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """The same where calls ring for two seconds only."""
    async for stage in Stage.crowd(await clusters.get("2x2x2", ring_seconds=2), driver):
        yield stage


async def test_pairs_in_glare(crowd: Stage) -> None:
    pairs = await crowd.pairs(PAIRS)

    async def initiate(caller: Client, callee: Client) -> None:
        await caller.ok("call:initiate", {"to": callee.user, "callType": "audio"}, timeout=PATIENCE)

    await asyncio.gather(*(initiate(*pair) for a, b in pairs for pair in ((a, b), (b, a))))
    for alice, bob in pairs:
        one, other = [await client.expect("call:initiated", timeout=PATIENCE) for client in (alice, bob)]
        assert one["callId"] == other["callId"], "one call comes of it"
        for client in (alice, bob):
            await client.expect("call:accepted", callId=one["callId"], timeout=PATIENCE)
        rung = [client for client in (alice, bob) if client.inbox.of("call:incoming")]
        assert len(rung) <= 1, "at most the slower one was rung"
        for client in rung:
            await client.expect("call:incoming", callId=one["callId"])
        await end(alice, bob, call=one["callId"])
        assert agreed(alice, bob, one["callId"]).accepted == 1


async def test_many_callers_for_one_callee(crowd: Stage) -> None:
    callee, *callers = await crowd.many("callee", *(f"caller{n}" for n in range(CALLERS)))
    call = {"to": callee.user, "callType": "audio"}
    acks = await asyncio.gather(*(caller.ask("call:initiate", call, timeout=PATIENCE) for caller in callers))

    first = [caller for caller, ack in zip(callers, acks, strict=True) if ack["ok"]]
    assert len(first) == 1, "exactly one rings"
    assert Counter(ack["error"]["code"] for ack in acks if not ack["ok"]) == {"user_unavailable": CALLERS - 1}
    initiated = await first[0].expect("call:initiated")
    await callee.expect("call:incoming", callId=initiated["callId"], from_=first[0].user)
    for caller in callers:
        if caller is not first[0]:
            assert (await caller.expect("error"))["code"] == "user_unavailable"
    await end(first[0], callee, call=initiated["callId"], reason="cancelled")
    for caller in callers:
        await caller.quiet()


async def test_accept_against_cancel_against_timeout(
    hasty_crowd: Stage, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(1)
    pairs = await hasty_crowd.pairs(PAIRS)
    tally: Counter[str] = Counter()
    for start in range(0, PAIRS, BATCH):
        batch = pairs[start : start + BATCH]
        tally.update(await asyncio.gather(*(_three_way(rng, alice, bob) for alice, bob in batch)))
    record_property("outcomes", dict(tally))
    assert tally.total() == PAIRS
    assert set(tally) <= {"hangup", "cancelled", "timeout"}
    assert len(tally) >= 2, f"no race: {tally}"
    for alice, bob in pairs[:10]:
        await end(bob, alice, call=await talk(alice, bob))


async def _three_way(rng: random.Random, alice: Client, bob: Client) -> str:
    """Accept and cancel a call at about the moment when it times out; how it ended."""
    await alice.ok("call:initiate", {"to": bob.user, "callType": "audio"})
    incoming = await bob.expect("call:incoming")
    call = incoming["callId"]
    await alice.expect("call:initiated", callId=call)

    async def at_deadline(client: Client, event: str) -> bool:
        moment = incoming["expiresAt"] + rng.uniform(*NEARLY_MS)
        await asyncio.sleep(max(0.0, moment / 1000 - time.time()))
        ack = await client.ask(event, {"callId": call})
        if not ack["ok"]:
            assert ack["error"]["code"] == "call_not_found", ack
            await client.expect("error", event=event, code="call_not_found")
        return bool(ack["ok"])

    accepted, ended = await asyncio.gather(at_deadline(bob, "call:accept"), at_deadline(alice, "call:end"))
    for client in (alice, bob):
        await client.expect("call:ended", callId=call)
        if accepted:
            await client.expect("call:accepted", callId=call)
        await client.quiet()
    known = agreed(alice, bob, call)
    (by, reason), *_ = known.ends
    expected = {
        (True, True): (alice.user, "hangup"),
        (False, True): (alice.user, "cancelled"),
        (False, False): ("server", "timeout"),
    }[accepted, ended]
    assert (by, reason) == expected and known.accepted == int(accepted), f"{call}: {known}"
    return str(reason)
