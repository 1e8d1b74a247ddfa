"""``examples/push.py`` says what is to be pushed to whom."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from signalling.nats_users import MONITOR
from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage, end, ring, talk
from tests.support.service_process import REPOSITORY

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECONDS = 15.0


@pytest_asyncio.fixture(loop_scope="session")
async def stage(big: Cluster, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Python clients on websockets; two of each service."""
    async for stage in Stage.on(big, "python-websocket", driver):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def pusher(big: Cluster) -> AsyncIterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "examples" / "push.py")],
        env={**big.tools_env(), "NATS_USER": MONITOR, "NATS_PASSWORD": big.access.passwords.of(MONITOR)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert running.stdout is not None
        assert await asyncio.wait_for(asyncio.to_thread(running.stdout.readline), SECONDS) == b"ready\n"
        yield running
    finally:
        running.terminate()
        assert running.wait(SECONDS) == 0
        running.stdout.close()


async def test_who_is_rung_is_told_and_when_it_is_over(stage: Stage, pusher: subprocess.Popen[bytes]) -> None:
    alice, bob = await stage.user("alice"), await stage.user("bob")

    async def pushed() -> dict[str, str]:
        """The next one to bob: other tests may run calls on the same cluster."""
        assert pusher.stdout is not None
        while True:
            line = await asyncio.wait_for(asyncio.to_thread(pusher.stdout.readline), SECONDS)
            told: dict[str, str] = json.loads(line)
            if told.pop("to") == bob.user:
                return told

    call = await ring(alice, bob)
    assert await pushed() == {"what": "rings", "callId": call, "caller": alice.user, "callType": "audio"}
    await alice.ok("call:end", {"callId": call})
    assert await pushed() == {"what": "over", "callId": call, "reason": "cancelled"}
    for client in (alice, bob):
        await client.expect("call:ended", callId=call)
    call = await ring(alice, bob)
    assert (await pushed())["callId"] == call
    await bob.ok("call:reject", {"callId": call})
    assert await pushed() == {"what": "over", "callId": call, "reason": "rejected"}
    for client in (alice, bob):
        await client.expect("call:rejected", callId=call)
    call = await talk(alice, bob)
    assert (await pushed())["what"] == "rings"
    assert await pushed() == {"what": "over", "callId": call, "reason": "answered"}
    await end(bob, alice, call=call)
    call = await ring(alice, bob)
    assert (await pushed())["callId"] == call  # and nothing for the end of the one before
    await end(alice, bob, call=call, reason="cancelled")
