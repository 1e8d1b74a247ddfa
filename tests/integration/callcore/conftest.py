"""Instances of call control on a real nats-server, between a presence that writes sessions and gateways that listen."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest_asyncio
from nats.aio.msg import Msg

from services.callcore.app import Timing, start
from services.callcore.settings import Settings
from shared import subjects
from shared.contracts.calls import (
    AcceptRequest,
    AttachedRequest,
    CallReply,
    EndRequest,
    InitiateReply,
    InitiateRequest,
    LeftRequest,
    RejectRequest,
)
from shared.contracts.presence import Session, Sessions
from shared.contracts.relays import LINE
from shared.contracts.rpc import Done
from shared.ids import encode, new_id
from shared.messaging.membership import Membership
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from shared.nats.kv import Bucket

GATEWAY = "gw1"
TIMING = Timing()


class Seen(NamedTuple):
    """One message to a session."""

    session: str
    event: str
    body: dict[str, Any]
    reply: str


class World:
    """Everything around call control. Sessions are named ``<user>-<device>``."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.client = RpcClient(bus, timeout=3.0)
        self.members = Membership(bus, "callcore")
        self.sessions = Bucket(bus, subjects.BUCKET_SESSIONS)
        self.calls = Bucket(bus, subjects.BUCKET_CALLS)
        self.seen: list[Seen] = []
        self._bundles: list[tuple[str, list[dict[str, Any]]]] = []
        self.receipts: list[tuple[str, int, dict[str, Any]]] = []
        self._changed = asyncio.Event()
        self._number = 0

    async def listen(self) -> None:
        await Bucket.create(self.bus, subjects.BUCKET_SESSIONS, replicas=1)
        await self.members.start()
        await self.bus.subscribe("deliver.>", self._on_deliver)
        await self.bus.subscribe("receipt.>", self._on_receipt)

    async def _on_deliver(self, msg: Msg) -> None:
        session, event = subjects.parse_deliver(msg.subject)
        if event == subjects.MARK:
            return
        lines = [json.loads(line) for line in msg.data.split(LINE)]
        self.seen += [Seen(session, event, body, msg.reply) for body in lines]
        self._bundles.append((session, lines))
        self._changed.set()

    async def _on_receipt(self, msg: Msg) -> None:
        session, number = subjects.parse_receipt(msg.subject)
        self.receipts.append((session, number, json.loads(msg.data)))
        self._changed.set()

    async def until(self, check: Callable[[], Any], timeout: float = 10.0) -> Any:
        """What ``check`` says once it is true."""
        async with asyncio.timeout(timeout):
            while not (result := check()):
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), 0.05)
                except TimeoutError:
                    continue
        return result

    def to(self, session: str, *events: str) -> list[Seen]:
        """What a session was sent, of the events named or of all."""
        return [s for s in self.seen if s.session == session and (not events or s.event in events)]

    def messages(self, call: str) -> list[tuple[str, list[int]]]:
        """Sessions, and the candidates of a call that they were sent in one message."""
        return [
            (session, [body["candidate"]["n"] for body in lines])
            for session, lines in self._bundles
            if lines[0].get("callId") == call and "candidate" in lines[0]
        ]

    async def expect(self, session: str, event: str) -> Seen:
        """The first such message to the session."""
        seen: list[Seen] = await self.until(lambda: self.to(session, event))
        return seen[0]

    # --- presence's part ---

    async def online(self, user: str, *devices: str) -> None:
        """The user has exactly these devices from now on."""
        key = subjects.key_user(user)
        entry = await self.sessions.get(key, fresh=True)
        records = tuple(
            Session(session=f"{user}-{d}", gateway=GATEWAY, socket=d, since=0, resume_token="t")
            for d in devices
        )
        if records:
            await self.sessions.put(key, Sessions(user=user, sessions=records).dump(), entry.revision)
        elif entry.value is not None:
            await self.sessions.delete(key, entry.revision)

    # --- the gateways' part ---

    async def initiate(self, session: str, to: str, **more: Any) -> InitiateReply:
        values = {"request_id": new_id(), "call": new_id(), "call_type": "audio", **more}
        request = InitiateRequest(user=_user(session), session=session, gateway=GATEWAY, to=to, **values)
        return await self.client.ask("calls", "initiate", request, InitiateReply)

    async def accept(
        self, session: str, call: str, *, request_id: str | None = None, settle: bool = False
    ) -> CallReply:
        request = AcceptRequest(**self._by(session, request_id), call=call, settle=settle)
        return await self.client.ask("calls", "accept", request, CallReply)

    async def reject(self, session: str, call: str) -> CallReply:
        return await self.client.ask(
            "calls", "reject", RejectRequest(**self._by(session), call=call), CallReply
        )

    async def end(
        self, session: str, call: str, *, request_id: str | None = None, settle: bool = False
    ) -> CallReply:
        request = EndRequest(**self._by(session, request_id), call=call, settle=settle)
        return await self.client.ask("calls", "end", request, CallReply)

    async def attached(self, session: str, *, request_id: str | None = None, **more: Any) -> None:
        values = {**self._by(session, request_id), **more}
        await self.client.ask("calls", "attached", AttachedRequest(**values), Done)

    async def left(self, session: str, reason: str = "connection_lost") -> None:
        await self.client.ask("calls", "left", LeftRequest(**self._by(session), reason=reason), Done)

    def _by(self, session: str, request_id: str | None = None) -> dict[str, Any]:
        return {
            "request_id": request_id or new_id(),
            "user": _user(session),
            "session": session,
            "gateway": GATEWAY,
        }

    async def relay(
        self, session: str, to: str, kind: str, call: str, body: dict[str, Any], *, at: str | None = None
    ) -> int:
        """One relay to the callcore in charge, or ``at`` another; its number."""
        self._number += 2
        owner = at or self.members.owner("callcore", encode(call))
        assert owner is not None
        payload = {**body, "from": _user(session), "callId": call}
        self.bus.publish(
            subjects.relay(owner, call, _user(session), session, to, kind),
            json.dumps(payload, separators=(",", ":")).encode(),
            subjects.receipt(GATEWAY, session, self._number),
        )
        return self._number

    async def refusal(self, number: int) -> str:
        """The code of the refusal of a relay."""
        found = await self.until(lambda: [body for _, n, body in self.receipts if n == number])
        return str(found[0]["code"])

    async def reserved(self, user: str) -> bool:
        """True if a call reserves the user."""
        return (await self.calls.get(subjects.key_user(user), fresh=True)).value is not None


Start = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def world(bus: Bus) -> AsyncIterator[World]:
    world = World(bus)
    await world.listen()
    yield world
    await world.members.stop()


@pytest_asyncio.fixture
async def callcore(nats_url: str, world: World) -> AsyncIterator[Start]:
    """Starts an instance of call control in this process, with the settings given, and waits for its first beat."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start_one(timing: Timing = TIMING, **values: Any) -> str:
            nonlocal count
            count += 1
            name = f"cc-{count}"
            config = Settings.model_validate({"nats_url": nats_url, **values})
            await stack.enter_async_context(start(config, name, timing))
            await world.until(lambda: name in world.members.alive("callcore"))
            return name

        yield start_one


def _user(session: str) -> str:
    return session.split("-")[0]
