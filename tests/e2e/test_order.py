"""Order: what one socket sends at full speed reaches the peer complete and in order, both ways at once."""

import asyncio

import pytest

from tests.support.client import Client
from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver
from tests.support.scenario import NODE, PYTHON, Stage, end, talk, usable

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300), pytest.mark.large]

COUNT = 5_000
PATIENCE = 120.0


@pytest.mark.parametrize("library", [NODE, PYTHON])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_candidates_both_ways_at_full_speed(
    big: Cluster, driver: NodeDriver | None, library: str, transport: str
) -> None:
    stage = Stage(big, usable(f"{library}-{transport}"), driver)
    try:
        alice, bob = await stage.user("alice", gateway=0), await stage.user("bob", gateway=1)
        call = await talk(alice, bob)

        async def pour(sender: Client, receiver: Client) -> None:
            line = "candidate:842163049 1 udp 1677729535 192.0.2.1 51472 typ srflx"
            message = {
                "candidate": {"candidate": line, "sdpMid": "0"},
                "from": sender.user,
                "to": receiver.user,
                "callId": call,
            }
            await sender.burst("ice:candidate", message, "candidate", COUNT)

        receiving = [c.inbox.expect_many("ice:candidate", COUNT, timeout=PATIENCE) for c in (alice, bob)]
        got_alice, got_bob, *_ = await asyncio.gather(*receiving, pour(alice, bob), pour(bob, alice))
        for got in (got_alice, got_bob):
            assert got is not None
            assert [message["candidate"]["n"] for message in got] == list(range(COUNT))
        await end(alice, bob, call=call)
        await stage.end()
    finally:
        await stage.leave()
    await stage.clear()
