"""A test's view of a cluster: clients of one kind, users of its own, and what must be true when it is over."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.client import POLLING, WEBSOCKET, Client
from tests.support.cluster import Cluster
from tests.support.event_shapes import faults
from tests.support.node_client import NodeDriver, missing
from tests.support.python_client import PythonClient

NODE, PYTHON = "node", "python"
KINDS = tuple(f"{library}-{transport}" for library in (NODE, PYTHON) for transport in (WEBSOCKET, POLLING))

_JOINING = 25
"""Pairs that join at once, so that joining many takes no longer than anybody's timeout."""


def usable(kind: str) -> str:
    """``kind``, where there can be such clients; skips the test where there cannot."""
    if kind.startswith(NODE) and (reason := missing()) is not None:
        pytest.skip(reason)
    return kind


class Stage:
    """Makes clients on a cluster and clears up after them."""

    def __init__(self, cluster: Cluster, kind: str, driver: NodeDriver | None) -> None:
        self.cluster = cluster
        self.library, self.transport = kind.split("-")
        self._driver = driver
        self._token = secrets.token_hex(4)
        self.clients: list[Client] = []

    def id(self, name: str) -> str:
        """A user id that no other test has."""
        return f"{name}-{self._token}"

    async def socket(
        self,
        name: str,
        *,
        gateway: int | None = None,
        auth: dict[str, Any] | None = None,
        url: str | None = None,
    ) -> Client:
        """A connected socket that has not joined; one after the other on different gateways, or by ``url``."""
        client: Client
        if self.library == NODE:
            assert self._driver is not None
            client = self._driver.client(name, self.transport)
        else:
            client = PythonClient(name, self.transport)
        client.auth = auth
        number = len(self.clients) if gateway is None else gateway
        self.clients.append(client)
        await client.connect(url or self.cluster.gateways[number % len(self.cluster.gateways)].url)
        return client

    async def user(self, name: str, *, gateway: int | None = None, **extra: Any) -> Client:
        """A client that has joined as a user of its own."""
        client = await self.socket(name, gateway=gateway)
        await client.join(self.id(name), **extra)
        return client

    async def device(self, of: Client, name: str, *, gateway: int | None = None, **extra: Any) -> Client:
        """One more client of the same user."""
        client = await self.socket(name, gateway=gateway)
        await client.join(of.user, **extra)
        return client

    async def many(self, *names: str) -> list[Client]:
        """Several users at once, spread over the gateways."""
        before = len(self.clients)
        clients = await asyncio.gather(*(self.user(name, gateway=before + i) for i, name in enumerate(names)))
        return list(clients)

    async def pairs(self, count: int) -> list[tuple[Client, Client]]:
        """Many pairs of users, the two of a pair on different gateways."""
        clients: list[Client] = []
        for first in range(0, count, _JOINING):
            some = range(first, min(first + _JOINING, count))
            clients += await self.many(*(f"{side}{n}" for n in some for side in "ab"))
        return list(zip(clients[::2], clients[1::2], strict=True))

    @classmethod
    async def crowd(cls, cluster: Cluster, driver: NodeDriver | None) -> "AsyncIterator[Stage]":
        """A stage for hundreds of clients: of the cheapest kind there is. Cleared up after its one test."""
        async for stage in cls.on(
            cluster, KINDS[0] if driver is not None else f"{PYTHON}-{WEBSOCKET}", driver
        ):
            yield stage

    @classmethod
    async def on(cls, cluster: Cluster, kind: str, driver: NodeDriver | None) -> "AsyncIterator[Stage]":
        """A stage with everything that must be true after its one test; for fixtures."""
        stage = cls(cluster, kind, driver)
        try:
            yield stage
            await stage.end()
        finally:
            await stage.leave()
        await stage.clear()

    async def end(self) -> None:
        """Everybody has got what they should and nothing else, and everything is cleared up when they have left."""
        for client in self.clients:
            await client.quiet()
            wrong = faults(client.inbox.all)
            assert not wrong, f"{client.name}: {wrong[:10]}"

    async def leave(self) -> None:
        """Disconnect everybody."""
        await asyncio.gather(*(client.disconnect() for client in self.clients))

    async def clear(self, within: float = 20.0) -> None:
        """Nobody is in a call, and no log has anything to complain about."""
        await self.cluster.assert_quiet(within)
        self.cluster.check_logs()


async def ring(caller: Client, callee: Client, call_type: str = "audio", **extra: Any) -> str:
    """``caller`` calls ``callee``, whose only device rings; the call's id."""
    await caller.ok("call:initiate", {"to": callee.user, "callType": call_type, **extra})
    initiated = await caller.expect("call:initiated", to=callee.user)
    await callee.expect("call:incoming", callId=initiated["callId"], from_=caller.user)
    return str(initiated["callId"])


async def talk(caller: Client, callee: Client) -> str:
    """A call that has been accepted; its id."""
    call = await ring(caller, callee)
    await callee.ok("call:accept", {"callId": call})
    for client in (caller, callee):
        await client.expect("call:accepted", callId=call, by=callee.user)
    return call


async def end(by: Client, *others: Client, call: str, reason: str = "hangup") -> None:
    """``by`` ends the call, and everybody is told."""
    await by.ok("call:end", {"callId": call})
    for client in (by, *others):
        await client.expect("call:ended", callId=call, by=by.user, reason=reason)
