"""Gateways ask each other which relays a client has got."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest_asyncio

from services.gateway.clients.registry import Registry
from services.gateway.sessions.relay_handover import TRIES, TRY_SECONDS, RelayHandover
from shared.nats.connection import Bus


@pytest_asyncio.fixture
async def asker(bus: Bus) -> AsyncIterator[RelayHandover]:
    """One that has never had a client."""
    asker = RelayHandover(bus, Registry())
    await asker.start()
    yield asker


def _registry(session: str) -> Registry:
    """A gateway whose client has got relay 7 of ``s`` with its ``seq`` 100, and is gone."""
    registry = Registry()
    socket = registry.add("sid", "eio")
    registry.bind(socket, "bob", session)
    socket.positions.note("s", 7, 100)
    socket.seq = 100
    registry.remove("sid")
    return registry


async def test_the_gateway_with_the_positions_replies(bus: Bus, asker: RelayHandover) -> None:
    for session in ("other", "b"):
        await RelayHandover(bus, _registry(session)).start()
    assert await asker.relays_received("b", 100) == {"s": 7}
    assert await asker.relays_received("b", 99) == {}


async def test_a_gateway_uses_its_own_positions(bus: Bus) -> None:
    assert await RelayHandover(bus, _registry("b")).relays_received("b", 100) == {"s": 7}


async def test_a_gateway_that_reconnects_late_is_asked_again(bus: Bus, asker: RelayHandover) -> None:
    asked = asyncio.create_task(asker.relays_received("b", 100))
    await asyncio.sleep(TRY_SECONDS / 2)
    await RelayHandover(bus, _registry("b")).start()
    assert await asked == {"s": 7}


async def test_without_a_reply_the_positions_are_unknown_in_time(bus: Bus, asker: RelayHandover) -> None:
    await RelayHandover(bus, _registry("other")).start()
    begun = time.monotonic()
    assert await asker.relays_received("b", 100) is None
    assert time.monotonic() - begun < 2 * TRIES * TRY_SECONDS
