"""Requests to presence, a few lines each."""

import asyncio

from services.presence import model
from services.presence.grace_periods import GracePeriods
from services.presence.join_service import JoinService
from services.presence.leases import Leases
from services.presence.notifier import Notifier
from services.presence.store import Store
from shared.clock import now_ms
from shared.contracts.client import Status
from shared.contracts.presence import (
    CountReply,
    CountRequest,
    JoinsReply,
    JoinsRequest,
    LeaveRequest,
    LostRequest,
    ReassertReply,
    ReassertRequest,
    RenewReply,
    RenewRequest,
    StatusRequest,
)
from shared.contracts.rpc import Done
from shared.messaging import time_budget
from shared.messaging.policy_client import TIMEOUT_SECONDS as POLICY_SECONDS
from shared.messaging.policy_client import PolicyClient
from shared.messaging.rpc import RpcServer
from shared.observability import logs

log = logs.get(__name__)


class Handlers:
    """One method a verb of ``rpc.presence.<verb>``."""

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        graces: GracePeriods,
        leases: Leases,
        joins: JoinService,
        contacts: PolicyClient,
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._graces = graces
        self._leases = leases
        self._joins = joins
        self._contacts = contacts

    async def register(self, server: RpcServer) -> None:
        """Answer requests."""
        await server.serve("presence", "count", CountRequest, self.count)
        await server.serve("presence", "join", JoinsRequest, self.join)
        await server.serve("presence", "leave", LeaveRequest, self.leave)
        await server.serve("presence", "lost", LostRequest, self.lost)
        await server.serve("presence", "reassert", ReassertRequest, self.reassert)
        await server.serve("presence", "renew", RenewRequest, self.renew)
        await server.serve("presence", "status", StatusRequest, self.status)

    async def count(self, _: CountRequest) -> CountReply:
        """Count users, for the monitor: it may not list them itself. Raises :class:`shared.errors.Unavailable`."""
        return CountReply(users=await self._store.count_users())

    async def join(self, request: JoinsRequest) -> JoinsReply:
        """Bring a user in, and those who came along. Raises what stands in the way of the first of them."""
        return await self._joins.join(request)

    async def leave(self, request: LeaveRequest) -> Done:
        """Let a session go and tell call control if a call holds the user.

        Raises :class:`shared.errors.Unavailable` if call control could not be told: the leave is to be tried again.
        """
        left = await self._store.change(request.user, lambda record: model.leave(record, request))
        if left.moved:
            log.info("leave ignored: session moved on", user=request.user, session=request.session)
            return Done()
        await self._store.forget(request.gateway, request.session, request.user)
        self._notifier.left(request.user, request.session, request.gateway, request.socket)
        await self._notifier.end_calls(
            request.user,
            request.session,
            request.gateway,
            request.reason,
            cause=request.request_id,
            expires_at=request.expires_at,
        )
        return Done()

    async def lost(self, request: LostRequest) -> Done:
        """The transport of a session broke: its grace begins."""
        begun = await self._graces.begin(
            request.user, request.session, request.gateway, request.socket, unheard=request.unheard
        )
        if not begun and request.session is not None:
            log.info("loss ignored: session moved on", user=request.user, session=request.session)
        return Done()

    async def reassert(self, request: ReassertRequest) -> ReassertReply:
        """A session is where its gateway says, unless it has moved on."""
        done = await self._store.change(
            request.user,
            lambda record: model.reassert(record, request, now_ms()),
            before=lambda _: self._store.note(request.gateway, request.session, request.user),
        )
        self._graces.continued(done.was)
        return ReassertReply(moved=done.moved)

    async def renew(self, request: RenewRequest) -> RenewReply:
        """A gateway lives, or says goodbye."""
        if request.leaving:
            await self._leases.give_up(request.gateway)
            return RenewReply(known=True)
        known, lease = await self._leases.renew(request.gateway)
        return RenewReply(known=known, since=lease.since)

    async def status(self, request: StatusRequest) -> Status:
        """Whether a user is connected now, and in a call; neither, as for a user that is not there, to a stranger."""
        known, sessions, in_call = await asyncio.gather(
            self._known(request),
            self._store.sessions(request.user),
            self._store.in_call(request.user),
        )
        online = any(session.lost_at is None for session in sessions)
        return Status(user_id=request.user, is_online=known and online, is_in_call=known and in_call)

    async def _known(self, request: StatusRequest) -> bool:
        """Whether the asker may know. All know of themselves."""
        if request.asker == request.user:
            return True
        within = time_budget.share(request.expires_at, POLICY_SECONDS)
        return await self._contacts.may_see(request.asker, request.user, within=within)
