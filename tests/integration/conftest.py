"""A real nats-server on a free port for every test: it starts in a tenth of a second."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats


@pytest_asyncio.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest_asyncio.fixture
async def nats_url(nats_server: EmbeddedNats) -> str:
    return nats_server.url


@pytest_asyncio.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats_url, name="test")
    try:
        yield bus
    finally:
        await bus.close()
