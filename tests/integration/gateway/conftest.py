"""A gateway in this process, with stand-ins for the services behind it that remember what they were asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from services.gateway.app import start
from services.gateway.settings import Settings
from shared import subjects
from shared.clock import now_ms
from shared.contracts.liveness import Beat
from shared.messaging.membership import Beacon
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.support.cluster import free_port
from tests.support.raw_client import RawClient
from tests.support.two_gateways import System

GATEWAY = "gw-test"
ACK_SECONDS = 1.0


class Services:
    """Presence and call control. ``answers``: verb → result or (error code, message), instead of the usual one."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        self.slow: dict[str, float] = {}

    async def start(self) -> None:
        for service in ("presence", "calls"):
            await self._bus.subscribe(subjects.rpc(service, "*"), self._on_request)
        for service, instance in (("presence", "pr"), ("callcore", "cc")):
            await self.beat(service, instance)
        self._beacon = Beacon(self._bus, "presence", "pr", "0")
        await self._beacon.start()

    async def stop(self) -> None:
        await self._beacon.stop()

    async def beat(self, service: str, instance: str) -> None:
        """Say that an instance is there. It is believed for a few seconds, longer than a test takes."""
        self._bus.publish(subjects.live(service, instance), Beat(version="0", started_at=now_ms()).dump())
        await self._bus.flush()

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked if verb != "renew"]

    async def wait_for(self, verb: str, timeout: float = 5.0) -> dict[str, Any]:
        async with asyncio.timeout(timeout):
            while True:
                for asked, request in self.asked:
                    if asked == verb:
                        return request
                await asyncio.sleep(0.01)

    async def _on_request(self, msg: Msg) -> None:
        verb, request = msg.subject.split(".")[2], json.loads(msg.data)
        self.asked.append((verb, request))
        await asyncio.sleep(self.slow.get(verb, 0))
        answer = self.answers.get(verb, self._usual(verb, request))
        if isinstance(answer, tuple):
            code, message = answer
            error = {"code": code, "message": message, "retryable": False}
            await msg.respond(json.dumps({"ok": False, "error": error}).encode())
        else:
            await msg.respond(b'{"ok":true,"result":' + json.dumps(answer).encode() + b"}")

    def _usual(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        match verb:
            case "join":
                session = "s-" + request["socket"]
                return {
                    "session": session,
                    "resumeToken": "token",
                    "since": 1,
                    "resumed": False,
                    "busy": False,
                }
            case "renew":
                return {"known": True}
            case "status":
                return {"userId": request["user"], "isOnline": True, "isInCall": False}
            case "initiate":
                return {"call": request["call"], "to": request["to"], "expiresAt": 1}
            case "find":
                return {"call": "call-found"}
            case "accept" | "reject" | "end":
                return {"call": request["call"]}
        return {}


@pytest_asyncio.fixture
async def services(bus: Bus) -> AsyncIterator[Services]:
    services = Services(bus)
    await services.start()
    yield services
    await services.stop()


async def ready(url: str) -> None:
    """Wait until the gateway says that it can do its work."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        while True:
            async with http.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.01)


Start = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def gateway(nats_url: str, services: Services) -> AsyncIterator[Start]:
    """Starts the gateway with the settings given, and waits until it is ready unless told not to; its URL."""
    async with AsyncExitStack() as stack:

        async def start_one(*, wait: bool = True, **values: object) -> str:
            port = free_port()
            config = {
                "nats_url": nats_url, "port": port, "request_timeout_seconds": 0.5,
                "relay_ack_seconds": ACK_SECONDS, "drain_seconds": 0.05, **values,
            }  # fmt: skip
            await stack.enter_async_context(start(Settings.model_validate(config), GATEWAY))
            await services.beat("callcore", "cc")
            url = f"http://127.0.0.1:{port}"
            if wait:
                await ready(url)
            return url

        yield start_one


Connect = Callable[..., Awaitable[RawClient]]


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects to a gateway, with ``auth``, and joins by event, if a user is given."""
    clients: list[RawClient] = []

    async def one(url: str, user: str = "", *, auth: Any = None) -> RawClient:
        client = RawClient(user or "stranger")
        client.auth = auth
        clients.append(client)
        await client.connect(url)
        if user:
            await client.join(user)
        return client

    yield one
    await asyncio.gather(*(client.close() for client in clients))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing that happens here may be logged as a defect."""
    yield
    alarms = [
        r.getMessage()
        for r in caplog.get_records("call")
        if r.exc_info or "never retrieved" in r.getMessage()
    ]
    assert not alarms


@pytest_asyncio.fixture
async def system(nats_server: EmbeddedNats, tmp_path: Path) -> AsyncIterator[System]:
    """Real processes instead of a gateway in this one."""
    system = System(nats_server, tmp_path)
    try:
        await system.start()
        yield system
    finally:
        await system.stop()
