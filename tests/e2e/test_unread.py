"""Clients that stop reading and go on sending pongs: memory is bounded, others notice nothing, and they may resume."""

import asyncio
import contextlib
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine

import pytest

from tests.e2e.test_resume import resume
from tests.support.call_beside import Beside
from tests.support.cluster import Cluster
from tests.support.limit_metrics import limits_hit
from tests.support.raw_client import RawClient
from tests.support.scenario import talk
from tests.support.shared_clusters import Clusters

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(120),
    pytest.mark.large,
]

CLIENTS, OFFERS, OFFER_BYTES = 12, 58, 63_000
SHARE_MB, SLACK_MB = 8, 20
"""The share, and what a gateway grows by when so much passes through it, and arrives within a second."""
SENT = CLIENTS * OFFERS * OFFER_BYTES
PACE_SECONDS = 0.12
PONG_SECONDS = 0.5
BROKEN_SECONDS = 20.0
PATIENCE = 30.0
LONG = {"PING_INTERVAL_SECONDS": "120", "PING_TIMEOUT_SECONDS": "120"}
BOUNDS = {
    "share": {**LONG, "UNREAD_TOTAL_MB": str(SHARE_MB), "UNREAD_SECONDS": "300"},
    "age": {**LONG, "UNREAD_SECONDS": "5"},
    "pongs": {"PING_INTERVAL_SECONDS": "3", "PING_TIMEOUT_SECONDS": "3", "UNREAD_SECONDS": "300"},
}
"""The settings under which each of the bounds comes first."""


class Deaf(RawClient):
    """A client that reads nothing from some time on."""

    def stop_reading(self) -> None:
        transport = self._ws._response.connection.transport  # type: ignore[union-attr]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport.pause_reading()


async def _pongs(clients: list[Deaf]) -> None:
    """Say that they are there, asked or not."""
    while True:
        for client in clients:
            if not client.closed.is_set():
                await client.send("3")
        await asyncio.sleep(PONG_SECONDS)


async def _watch(cluster: Cluster, most: list[int]) -> None:
    """Note the most memory that the gateway of those that do not read has in use."""
    while True:
        most.append(cluster.gateways[1].memory())
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _meanwhile(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("bound", BOUNDS)
async def test_clients_that_stop_reading_and_send_pongs(clusters: Clusters, bound: str) -> None:
    cluster = await clusters.get("2x1x1", RESUME_WINDOW_SECONDS="60", **BOUNDS[bound])
    token = secrets.token_hex(3)
    callers = [RawClient(f"caller{n}-{token}") for n in range(CLIENTS)]
    deaf = [Deaf(f"deaf{n}-{token}") for n in range(CLIENTS)]
    again: list[RawClient] = []
    least = CLIENTS - (SHARE_MB << 20) // (OFFERS * OFFER_BYTES) if bound == "share" else CLIENTS
    """Connections to break."""
    try:
        for clients, gateway in ((callers, 0), (deaf, 1)):
            for client in clients:
                await client.connect(cluster.gateways[gateway].url)
                await client.join(client.name)
        calls = [await talk(*pair) for pair in zip(callers, deaf, strict=True)]
        async with Beside.on(cluster, lambda user: user) as beside:
            before = cluster.gateways[1].memory()
            most = [before]
            for client in deaf:
                client.stop_reading()

            async def offer(n: int) -> None:
                to, call = deaf[n].user, calls[n]
                for number in range(OFFERS):
                    sdp = {"type": "offer", "n": number, "sdp": "x" * OFFER_BYTES}
                    envelope = {"from": callers[n].user, "to": to, "callId": call}
                    # Without an acknowledgement: while the peer's session is in its grace it takes a second.
                    await callers[n].emit("call:offer", {"offer": sdp, **envelope})
                    await asyncio.sleep(PACE_SECONDS)

            async def flood() -> None:
                await asyncio.gather(*(offer(n) for n in range(CLIENTS)))
                until = time.monotonic() + BROKEN_SECONDS
                while sum(client.closed.is_set() for client in deaf) < least:
                    assert time.monotonic() < until, "it goes on for as long as they like"
                    await asyncio.sleep(0.2)

            async with _meanwhile(_pongs(deaf), _watch(cluster, most)):
                flooding = asyncio.create_task(flood())
                while not flooding.done():
                    await beside.measure(1)
                await flooding
            grown = max(most) - before
            sys.stdout.write(f"{bound}: {SENT >> 20} MiB sent, the gateway grew by {grown >> 20} MiB\n")
            if bound == "share":
                assert grown < (SHARE_MB + SLACK_MB) << 20 < SENT
        for client, caller, call in zip(deaf, callers, calls, strict=True):
            if not client.closed.is_set():
                await client.tear()
            heard = RawClient(client.name)
            again.append(heard)
            await heard.connect(cluster.gateways[0].url)
            joined = await heard.join(client.name, resume=resume(client))
            assert joined["resumed"] and joined["sessionId"] == client.session
            for number in range(OFFERS):
                got = await heard.expect("call:offer", timeout=PATIENCE, callId=call)
                assert got["offer"]["n"] == number, "in order, and once"
            await caller.ok("call:end", {"callId": call})
            await heard.expect("call:ended", callId=call)
            assert not heard.inbox.seen("call:offer")[OFFERS:]
        limit = {"share": "unread_total", "age": "unread_seconds"}.get(bound)
        async with asyncio.timeout(PATIENCE):
            while limit is not None and not limits_hit(cluster.folder)[limit]:
                await asyncio.sleep(0.2)
    finally:
        await asyncio.gather(*(client.disconnect() for client in (*callers, *deaf, *again)))
    await cluster.assert_quiet(PATIENCE)
    cluster.check_logs()
