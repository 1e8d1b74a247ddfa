"""JetStream without room: clients hear the protocol's message, operators which stream is full, and it passes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from shared.messaging.mailbox_marks import MARK_SECONDS
from shared.nats import streams
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.integration.gateway.conftest import ready
from tests.integration.test_metrics import System
from tests.support.cluster import free_port
from tests.support.raw_client import RawClient

MB = 1024 * 1024
LOGGED = "jetstream is full"


@pytest_asyncio.fixture
async def small_nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    server = EmbeddedNats(tmp_path / "small", jetstream="max_file_store: 48MB\n max_memory_store: 64MB")
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Filler:
    """A stream of somebody else that takes all the room."""

    def __init__(self, bus: Bus, storage: str = "file") -> None:
        self._bus = bus
        self._storage = storage

    async def fill(self) -> None:
        config = {"name": "FILL", "subjects": ["fill"], "storage": self._storage, "num_replicas": 1}
        await streams.ensure(self._bus, config)
        for size in (500_000, 10_000, 500, 1):
            for _ in range(200):
                answer = await self._bus.request("fill", bytes(size), timeout=5)
                if b'"error"' in answer.data:
                    break
            else:
                raise AssertionError("it does not get full")

    async def empty(self) -> None:
        await streams.api(self._bus, "STREAM.DELETE.FILL", {})


async def _readyz(port: int) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/readyz") as answer:
        return answer.status, json.loads(await answer.text())


async def _until(port: int, status: int) -> dict[str, object]:
    said: dict[str, object] = {}
    try:
        async with asyncio.timeout(20):
            while True:
                found, said = await _readyz(port)
                if found == status:
                    return said
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"still {found}: {said}") from None


async def test_a_full_disk(small_nats: EmbeddedNats, capfd: pytest.CaptureFixture[str]) -> None:
    system, bus = System(small_nats.url), await Bus.connect(small_nats.url, name="filler")
    ports = {service: free_port() for service in ("presence", "callcore")}
    limits = {"events_max_mb": 1}
    try:
        await system.start("presence-1", health_port=ports["presence"], **limits)
        await system.start("callcore-1", health_port=ports["callcore"], deliver_max_mb=1, **limits)
        await system.start("gateway-1")
        ports["gateway"] = int(system.urls[0].rpartition(":")[2])
        await ready(system.urls[0])
        alice, bob = await system.join("alice"), await system.join("bob")
        filler = Filler(bus)
        await filler.fill()
        capfd.readouterr()
        for _ in range(20):
            refused = await alice.refused("call:initiate", {"to": "bob", "callType": "audio"})
            assert refused == {"code": "unavailable", "message": "Temporarily unavailable", "retryable": True}
        said = await _until(ports["callcore"], 503)
        assert "JetStream is full: KV_calls" in said["missing"]  # type: ignore[operator]
        with pytest.raises(Exception, match="Temporarily unavailable"):
            await system.join("carol")
        assert "JetStream is full" in str((await _until(ports["presence"], 503))["missing"])
        assert "JetStream is full" in str((await _until(ports["gateway"], 503))["missing"])
        lines = [line for line in "".join(capfd.readouterr()).splitlines() if LOGGED in line]
        assert any("KV_calls" in line for line in lines)
        assert len(lines) <= 12, "at most one line in ten seconds from each service"
        await filler.empty()
        for port in ports.values():
            await _until(port, 200)
        await system.join("dave")
        await alice.ok("call:initiate", {"to": "bob", "callType": "audio"})
        await bob.expect("call:incoming")
        await _until(ports["callcore"], 200)
    finally:
        await system.stop()
        await bus.close()


@pytest.mark.parametrize("in_call", [True, False])
async def test_full_memory(small_nats: EmbeddedNats, *, in_call: bool) -> None:
    """Mailboxes acknowledge nothing, so it shows when a session resumes; new sessions are not kept out."""
    system, bus = System(small_nats.url), await Bus.connect(small_nats.url, name="filler")
    limits = {"events_max_mb": 1, "resume_window_seconds": 30}
    try:
        await system.start("presence-1", **limits)
        await system.start("callcore-1", deliver_max_mb=1, **limits)
        for name in ("gateway-1", "gateway-2"):
            await system.start(name, resume_window_seconds=30, join_timeout_seconds=20)
        for url in system.urls:
            await ready(url)
        port = int(system.urls[1].rpartition(":")[2])
        alice, bob = await system.join("alice"), await system.join("bob")
        if in_call:
            call = await alice.ok("call:initiate", {"to": "bob", "callType": "audio"})
            await bob.ok("call:accept", {"callId": call["callId"]})
        joined = alice.joined  # type: ignore[attr-defined]
        resume = {"sessionId": joined["sessionId"], "token": joined["resume"]["token"], "lastSeq": 0}
        filler = Filler(bus, "memory")
        await filler.fill()
        client = RawClient("alice")
        system.clients.append(client)
        await client.connect(system.urls[1])
        refused = await client.refused("user:join", {"userId": "alice", "resume": resume})
        assert refused == {"code": "unavailable", "message": "Temporarily unavailable", "retryable": True}
        status, said = await _readyz(port)
        assert (status, said.get("impaired")) == (200, ["JetStream is full: DELIVER"])
        await system.join("carol")
        await filler.empty()
        again = await client.ok("user:join", {"userId": "alice", "resume": resume})
        assert "impaired" not in (await _readyz(port))[1], again
        assert not again["resumed"], "what was sent meanwhile is lost"
    finally:
        await system.stop()
        await bus.close()


async def test_memory_that_was_full_while_nobody_resumed(small_nats: EmbeddedNats) -> None:
    """What was sent to a client that was away is lost, and there is room again when it is back: it must be told."""
    system, bus = System(small_nats.url), await Bus.connect(small_nats.url, name="filler")
    limits = {"events_max_mb": 1, "resume_window_seconds": 30}
    try:
        await system.start("presence-1", **limits)
        await system.start("callcore-1", deliver_max_mb=1, **limits)
        for name in ("gateway-1", "gateway-2"):
            await system.start(name, resume_window_seconds=30, join_timeout_seconds=20)
        for url in system.urls:
            await ready(url)
        alice, bob = await system.join("alice"), await system.join("bob")
        call = (await alice.ok("call:initiate", {"to": "bob", "callType": "audio"}))["callId"]
        await bob.ok("call:accept", {"callId": call})
        heard = (await alice.expect("call:accepted"))["seq"]
        joined = alice.joined  # type: ignore[attr-defined]
        await alice.tear()
        filler = Filler(bus, "memory")
        await filler.fill()
        lost = {"candidate": {"candidate": "lost"}, "from": "bob", "to": "alice", "callId": call}
        await bob.emit("ice:candidate", lost)
        await asyncio.sleep(2 * MARK_SECONDS)
        await filler.empty()
        client = RawClient("alice")
        system.clients.append(client)
        await client.connect(system.urls[1])
        resume = {
            "sessionId": joined["sessionId"],
            "token": joined["resume"]["token"],
            "lastSeq": heard,
        }
        again = await client.ok("user:join", {"userId": "alice", "resume": resume})
        assert again["sessionId"] == joined["sessionId"], "the session goes on"
        assert not again["resumed"], "a candidate is missing"
    finally:
        await system.stop()
        await bus.close()
