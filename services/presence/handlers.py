"""Requests to presence, a few lines each."""

import asyncio

from services.presence import model
from services.presence.model import Minted, Policy
from services.presence.store import Store
from services.presence.teller import Teller
from shared import logs
from shared.clock import now_ms
from shared.contracts.calls import LeftRequest
from shared.contracts.client import Status
from shared.contracts.presence import JoinReply, JoinRequest, LeaveRequest, StatusRequest
from shared.contracts.rpc import Done
from shared.ids import new_id
from shared.rpc import Client, Server

log = logs.get(__name__)


class Handlers:
    """One method a verb of ``rpc.presence.<verb>``."""

    def __init__(self, store: Store, teller: Teller, calls: Client, policy: Policy) -> None:
        self._store = store
        self._teller = teller
        self._calls = calls
        self._policy = policy

    async def register(self, server: Server) -> None:
        """Answer requests."""
        await server.serve("presence", "join", JoinRequest, self.join)
        await server.serve("presence", "leave", LeaveRequest, self.leave)
        await server.serve("presence", "status", StatusRequest, self.status)

    async def join(self, request: JoinRequest) -> JoinReply:
        """Bring a user in. Raises :class:`shared.errors.RateLimited` if the user has too many sessions."""
        minted = Minted(session=new_id(), token=new_id() + new_id())
        joined = await self._store.change(
            request.user, lambda record: model.join(record, request, self._policy, now_ms(), minted)
        )
        await self._teller.joined(request.user, joined)
        # Read after the write: call control writes its hold first and reads the sessions then, so at least one of
        # the two sees the other.
        busy = await self._store.busy(request.user)
        session = joined.session
        return JoinReply(
            session=session.session, resume_token=session.resume_token, resumed=joined.resumed, busy=busy
        )

    async def leave(self, request: LeaveRequest) -> Done:
        """Let a session go and tell call control if a call holds the user.

        Raises :class:`shared.errors.Unavailable` if call control could not be told: the leave is to be tried again.
        """
        left = await self._store.change(request.user, lambda record: model.leave(record, request))
        if left.moved:
            log.info("leave ignored: session moved on", user=request.user, session=request.session)
            return Done()
        self._teller.left(request.user, request.session, request.gateway, request.socket)
        if await self._store.busy(request.user):
            await self._calls.ask("calls", "left", _left(request), Done)
        return Done()

    async def status(self, request: StatusRequest) -> Status:
        """Whether a user is online, and in a call."""
        online, busy = await asyncio.gather(self._store.online(request.user), self._store.busy(request.user))
        return Status(user_id=request.user, is_online=online, is_in_call=busy)


def _left(request: LeaveRequest) -> LeftRequest:
    return LeftRequest(
        request_id=request.request_id,
        user=request.user,
        session=request.session,
        gateway=request.gateway,
        reason=request.reason,
    )
