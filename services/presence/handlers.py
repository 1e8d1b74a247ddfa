"""Handle the requests to presence: one method for each verb, a few lines each."""

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
    """Handles ``rpc.presence.<verb>``; each method raises the errors that the requester receives."""

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
        """Register the verbs."""
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
        """Join a batch of users. Raises the error of the first join."""
        return await self._joins.join(request)

    async def leave(self, request: LeaveRequest) -> Done:
        """Delete a session, and notify call control if a call reserves the user.

        Raises :class:`shared.errors.Unavailable` if call control was not notified: the gateway repeats the request.
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
        """Begin the grace period of a session whose transport broke."""
        begun = await self._graces.begin(
            request.user, request.session, request.gateway, request.socket, unheard=request.unheard
        )
        if not begun and request.session is not None:
            log.info("loss ignored: session moved on", user=request.user, session=request.session)
        return Done()

    async def reassert(self, request: ReassertRequest) -> ReassertReply:
        """Store a session as its gateway reports it, unless it has moved to another socket."""
        done = await self._store.change(
            request.user,
            lambda record: model.reassert(record, request, now_ms()),
            before=lambda _: self._store.note(request.gateway, request.session, request.user),
        )
        self._graces.continued(done.was)
        return ReassertReply(moved=done.moved)

    async def renew(self, request: RenewRequest) -> RenewReply:
        """Renew the lease of a gateway, or end it if the gateway stops."""
        if request.leaving:
            await self._leases.give_up(request.gateway)
            return RenewReply(known=True)
        known, lease = await self._leases.renew(request.gateway)
        return RenewReply(known=known, since=lease.since)

    async def status(self, request: StatusRequest) -> Status:
        """Return whether a user is connected, and in a call. A requester who may not see the user gets False twice."""
        visible, sessions, in_call = await asyncio.gather(
            self._is_visible(request),
            self._store.sessions(request.user),
            self._store.in_call(request.user),
        )
        online = any(session.lost_at is None for session in sessions)
        return Status(user_id=request.user, is_online=visible and online, is_in_call=visible and in_call)

    async def _is_visible(self, request: StatusRequest) -> bool:
        """Return True if the requester may see the user. Users see themselves."""
        if request.asker == request.user:
            return True
        within = time_budget.share(request.expires_at, POLICY_SECONDS)
        return await self._contacts.may_see(request.asker, request.user, within=within)
