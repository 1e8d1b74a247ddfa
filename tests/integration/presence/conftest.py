"""Instances of presence, and gateways that send them requests."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from services.presence.app import start
from services.presence.leases import BATCH
from services.presence.settings import Settings
from shared.contracts.client import Status
from shared.contracts.presence import (
    JoinReply,
    JoinRequest,
    LeaveRequest,
    LostRequest,
    ReassertReply,
    ReassertRequest,
    RenewReply,
    RenewRequest,
    StatusRequest,
)
from shared.contracts.rpc import Done
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus

Start = Callable[..., Awaitable[None]]


@pytest_asyncio.fixture
async def presence(nats_url: str) -> AsyncIterator[Start]:
    """Starts an instance of presence in this process, with the settings given."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start_one(*, lease_batch: int = BATCH, **values: object) -> None:
            nonlocal count
            count += 1
            config = {"nats_url": nats_url, "request_timeout_seconds": 0.6, **values}
            instance = start(Settings.model_validate(config), f"presence-{count}", lease_batch=lease_batch)
            await stack.enter_async_context(instance)

        yield start_one


class Gateway:
    """Sends requests to presence as a gateway does."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self._client = RpcClient(bus, timeout=5.0)

    async def join(
        self, user: str, socket: str, *, device: str | None = None, resume: JoinReply | None = None
    ) -> JoinReply:
        request = JoinRequest(
            request_id=new_id(),
            user=user,
            gateway=self.name,
            socket=socket,
            device=device,
            resume_session=resume.session if resume else None,
            resume_token=resume.resume_token if resume else None,
        )
        return await self._client.ask("presence", "join", request, JoinReply)

    async def leave(self, user: str, session: str, socket: str, *, reason: str = "hangup") -> None:
        request = LeaveRequest(
            request_id=new_id(), user=user, session=session, gateway=self.name, socket=socket, reason=reason
        )
        await self._client.ask("presence", "leave", request, Done)

    async def lose(self, user: str, session: str | None, socket: str, *, unheard: bool = False) -> None:
        request = LostRequest(
            request_id=new_id(),
            user=user,
            session=session,
            gateway=self.name,
            socket=socket,
            unheard=unheard,
        )
        await self._client.ask("presence", "lost", request, Done)

    async def renew(self, *, leaving: bool = False) -> bool:
        """Return True if the gateway counted as alive."""
        return (await self.lease(leaving=leaving)).known

    async def lease(self, *, leaving: bool = False) -> RenewReply:
        """Renew the lease, or end it; return the reply."""
        request = RenewRequest(request_id=new_id(), gateway=self.name, leaving=leaving)
        return await self._client.ask("presence", "renew", request, RenewReply)

    async def reassert(self, user: str, joined: JoinReply, socket: str) -> bool:
        """Report that a session is at ``socket``. Return True if it has moved."""
        request = ReassertRequest(
            request_id=new_id(),
            user=user,
            session=joined.session,
            gateway=self.name,
            socket=socket,
            resume_token=joined.resume_token,
        )
        return (await self._client.ask("presence", "reassert", request, ReassertReply)).moved

    async def status(self, user: str, *, asker: str = "somebody") -> tuple[bool, bool]:
        """``(isOnline, isInCall)``."""
        request = StatusRequest(request_id=new_id(), user=user, asker=asker)
        status = await self._client.ask("presence", "status", request, Status)
        return status.is_online, status.is_in_call


@pytest.fixture
def gw1(bus: Bus) -> Gateway:
    return Gateway(bus, "gw1")


@pytest.fixture
def gw2(bus: Bus) -> Gateway:
    return Gateway(bus, "gw2")
