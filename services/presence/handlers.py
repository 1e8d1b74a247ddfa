"""Requests to presence, a few lines each."""

import asyncio

from services.presence import model
from services.presence.grace import Graces
from services.presence.leases import Leases
from services.presence.model import Joined, Minted, Policy
from services.presence.store import Store
from services.presence.teller import Teller
from shared import logs
from shared.clock import now_ms
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
    Sessions,
    StatusRequest,
)
from shared.contracts.rpc import Done
from shared.errors import RateLimited
from shared.hits import Hits
from shared.ids import new_id
from shared.policy import Policy as Contacts
from shared.rpc import Server
from shared.together import all_of

log = logs.get(__name__)

UNHEARD_MS = 500
"""How long a client that shows a token for the second time may wait for its gateway to say that it was gone."""
_LOOK_SECONDS = 0.05


class _NotLostYet(Exception):
    """The client may be faster than the news that its last socket is gone."""


class Handlers:
    """One method a verb of ``rpc.presence.<verb>``."""

    def __init__(
        self,
        store: Store,
        teller: Teller,
        graces: Graces,
        leases: Leases,
        policy: Policy,
        contacts: Contacts,
        hits: Hits,
    ) -> None:
        self._store = store
        self._teller = teller
        self._graces = graces
        self._leases = leases
        self._policy = policy
        self._contacts = contacts
        self._hits = hits

    async def register(self, server: Server) -> None:
        """Answer requests."""
        await server.serve("presence", "join", JoinRequest, self.join)
        await server.serve("presence", "leave", LeaveRequest, self.leave)
        await server.serve("presence", "lost", LostRequest, self.lost)
        await server.serve("presence", "reassert", ReassertRequest, self.reassert)
        await server.serve("presence", "renew", RenewRequest, self.renew)
        await server.serve("presence", "status", StatusRequest, self.status)

    async def join(self, request: JoinRequest) -> JoinReply:
        """Bring a user in. Raises :class:`shared.errors.RateLimited` if the user has too many sessions."""
        try:
            joined = await self._join(request)
        except RateLimited:
            self._hits.hit("sessions_per_user")
            raise
        self._graces.continued(joined.was, *joined.gone)
        await self._teller.joined(request.user, joined)
        for old in joined.displaced:
            if old.gateway != request.gateway or old in joined.gone:
                await self._store.forget(old.gateway, old.session, request.user)
        # Read after the write: call control writes its hold first and reads the sessions then, so at least one of
        # the two sees the other.
        busy = await self._store.busy(request.user)
        session = joined.session
        return JoinReply(
            session=session.session,
            resume_token=session.resume_token,
            device=session.device,
            since=session.since,
            resumed=joined.resumed,
            continued=joined.continued,
            lost_at=joined.was.lost_at if joined.was is not None else None,
            busy=busy,
        )

    async def _join(self, request: JoinRequest) -> Joined:
        minted = Minted(session=new_id(), token=new_id() + new_id())
        patient_until = now_ms() + UNHEARD_MS
        noted: set[str] = set()

        async def note(joined: Joined) -> None:
            noted.add(joined.session.session)
            await self._store.note(request.gateway, joined.session.session, request.user)

        def decide(record: Sessions | None) -> Joined:
            now = now_ms()
            if now < patient_until and model.may_be_unheard(record, request):
                raise _NotLostYet
            return model.join(record, request, self._policy, now, minted)

        while True:
            try:
                joined = await self._store.change(
                    request.user,
                    decide,
                    before=note,
                    guess_new=request.resume_session is None and request.attempt == 1,
                )
            except _NotLostYet:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            except RateLimited:
                await self._forget(request, noted)
                raise
            await self._forget(request, noted - {joined.session.session})
            return joined

    async def _forget(self, request: JoinRequest, unused: set[str]) -> None:
        """Sessions that did not come about. After an error it is not known whether one did: its note stays."""
        for session in unused:
            await self._store.forget(request.gateway, session, request.user)

    async def leave(self, request: LeaveRequest) -> Done:
        """Let a session go and tell call control if a call holds the user.

        Raises :class:`shared.errors.Unavailable` if call control could not be told: the leave is to be tried again.
        """
        left = await self._store.change(request.user, lambda record: model.leave(record, request))
        if left.moved:
            log.info("leave ignored: session moved on", user=request.user, session=request.session)
            return Done()
        await self._store.forget(request.gateway, request.session, request.user)
        self._teller.left(request.user, request.session, request.gateway, request.socket)
        await self._teller.end_calls(
            request.user, request.session, request.gateway, request.reason, cause=request.request_id
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
        return RenewReply(known=await self._leases.renew(request.gateway))

    async def status(self, request: StatusRequest) -> Status:
        """Whether a user is connected now, and in a call; neither, as for a user that is not there, to a stranger."""
        known, sessions, busy = await all_of(
            self._known(request),
            self._store.sessions(request.user),
            self._store.busy(request.user),
        )
        online = any(session.lost_at is None for session in sessions)
        return Status(user_id=request.user, is_online=known and online, is_in_call=known and busy)

    async def _known(self, request: StatusRequest) -> bool:
        """Whether the asker may know. All know of themselves."""
        return request.asker == request.user or await self._contacts.may_see(request.asker, request.user)
