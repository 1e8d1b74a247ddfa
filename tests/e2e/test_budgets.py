"""Bytes that a user and a call may relay: a flood costs its sender, and evicts nobody else's mail."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.test_resume import got, resume, send, tear
from tests.support.cluster import Cluster
from tests.support.raw_client import RawClient
from tests.support.scenario import end, ring, talk
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

KIB = 1024
CALL_KIB, USER_KIB = 1024, 2048
"""The defaults."""
SETTINGS = {"RATE_LIMIT": "on", "RESUME_WINDOW_SECONDS": "20", "DELIVER_MAX_MB": "32"}
PAIRS, ROUNDS, OFFERS, SDP = 3, 3, 60, 60_000


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> Cluster:
    return await clusters.get("2x2x1", **SETTINGS)


@pytest_asyncio.fixture(loop_scope="session")
async def clients(cluster: Cluster) -> AsyncIterator[list[RawClient]]:
    made: list[RawClient] = []
    yield made
    await asyncio.gather(*(client.disconnect() for client in made))
    await cluster.assert_quiet(30)
    cluster.check_logs()


async def _join(cluster: Cluster, clients: list[RawClient], user: str, gateway: int) -> RawClient:
    client = RawClient(user)
    clients.append(client)
    await client.connect(cluster.gateways[gateway].url)
    await client.join(user, deviceId="phone")
    return client


async def _flood(cluster: Cluster, clients: list[RawClient], users: tuple[str, str]) -> tuple[int, set[str]]:
    """A pair in a call sends all the offers it can, and joins anew on the other gateway, again and again.

    Returns the bytes that were acknowledged, and the codes of refusals.
    """
    one, other = [await _join(cluster, clients, user, n) for n, user in enumerate(users)]
    call = await talk(one, other)
    taken, codes = 0, set()
    for number in range(ROUNDS):
        for sender, to in ((one, users[1]), (other, users[0])):
            body = {
                "from": sender.user,
                "to": to,
                "callId": call,
                "offer": {"type": "offer", "sdp": "x" * SDP},
            }
            for ack in await asyncio.gather(*(sender.ask("call:offer", body) for _ in range(OFFERS))):
                if ack["ok"]:
                    taken += SDP
                else:
                    codes.add(ack["error"]["code"])
                    assert ack["error"]["retryAfterMs"] > 0 or not ack["error"]["retryable"]
        one, other = [
            await _join(cluster, clients, user, (n + number + 1) % 2) for n, user in enumerate(users)
        ]
    await one.ok("call:end", {"callId": call})
    return taken, codes


async def test_pairs_that_flood_are_refused_and_an_unrelated_user_in_grace_misses_nothing(
    cluster: Cluster, clients: list[RawClient]
) -> None:
    alice, bob = await _join(cluster, clients, "alice", 0), await _join(cluster, clients, "bob", 1)
    call = await talk(alice, bob)
    await send(alice, bob.user, call, range(3))
    await got(bob, range(3))
    await tear(bob)
    await send(alice, bob.user, call, range(3, 20))
    pairs = [(f"flood-{n}-a", f"flood-{n}-b") for n in range(PAIRS)]
    floods = await asyncio.gather(*(_flood(cluster, clients, pair) for pair in pairs))
    for taken, codes in floods:
        assert codes == {"rate_limited"}
        # Both sides, and what is refilled within the test.
        assert taken <= 2 * CALL_KIB * KIB * 1.8, taken
    bob2 = RawClient("bob")
    clients.append(bob2)
    await bob2.connect(cluster.gateways[0].url)
    joined = await bob2.join("bob", deviceId="phone", resume=resume(bob))
    assert joined["resumed"] is True
    await got(bob2, range(3, 20))
    await end(bob2, alice, call=call)


async def test_ten_renegotiations_in_a_row_pass(cluster: Cluster, clients: list[RawClient]) -> None:
    alice, bob = await _join(cluster, clients, "ann", 0), await _join(cluster, clients, "ben", 1)
    call = await talk(alice, bob)
    for _ in range(10):
        for sender, receiver, kind in ((alice, bob, "offer"), (bob, alice, "answer")):
            body = {"type": kind, "sdp": "x" * 20_000}
            await sender.ok(
                f"call:{kind}", {kind: body, "from": sender.user, "to": receiver.user, "callId": call}
            )
            await receiver.expect(f"call:{kind}")
        for n in range(30):
            candidate = {"candidate": "c" * 200, "n": n}
            await alice.emit(
                "ice:candidate",
                {"candidate": candidate, "from": alice.user, "to": bob.user, "callId": call},
            )
        await bob.inbox.expect_many("ice:candidate", 30)
    await end(alice, bob, call=call)


async def test_early_media_is_charged_for_each_device(cluster: Cluster, clients: list[RawClient]) -> None:
    caller = await _join(cluster, clients, "caller", 0)
    devices = []
    for n in range(8):
        device = RawClient("callee")
        clients.append(device)
        await device.connect(cluster.gateways[n % 2].url)
        await device.join("callee", deviceId=f"device-{n}")
        devices.append(device)
    call = await ring(caller, devices[0])
    body = {"from": "caller", "to": "callee", "callId": call, "offer": {"type": "offer", "sdp": "x" * SDP}}
    acks = [await caller.ask("call:offer", body) for _ in range(4)]
    assert [ack["ok"] for ack in acks] == [True, True, False, False], acks
    assert "Too much in one call" in acks[-1]["error"]["message"]
    await caller.ok("call:end", {"callId": call})
    for device in devices:
        await device.expect("call:ended", callId=call)
