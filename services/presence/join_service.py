"""How users come in: one, or several of one gateway in one request."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, TypeVar

from services.presence import model
from services.presence.connection_check import ConnectionCheck
from services.presence.grace_periods import GracePeriods
from services.presence.join_limiter import JoinLimiter
from services.presence.model import Joined, Minted, SessionPolicy, Silent
from services.presence.notifier import Notifier
from services.presence.store import Store
from shared.clock import now_ms
from shared.contracts.presence import (
    AlsoJoined,
    JoinReply,
    JoinRequest,
    JoinsReply,
    JoinsRequest,
    Session,
    Sessions,
)
from shared.errors import FirstRefused, JoinAlone, RateLimited, SignallingError, Unavailable
from shared.nats.kv import Conflict
from shared.nats.pending_requests import PendingRequest
from shared.observability.limit_hits import LimitHits

ASKED_MAX = 8
"""Connections that one join may ask about: a session that moves on each time is somebody else's race."""

R = TypeVar("R", bound=JoinReply)


class _Unclear(Exception):
    """What becomes of a join depends on the connection of a session, which its gateway has to be asked about."""

    def __init__(self, session: Session, *, unheard: bool) -> None:
        super().__init__()
        self.session = session
        self.unheard = unheard


class JoinService:
    """Brings users in."""

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        graces: GracePeriods,
        connections: ConnectionCheck,
        limiter: JoinLimiter,
        policy: SessionPolicy,
        hits: LimitHits,
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._graces = graces
        self._connections = connections
        self._limiter = limiter
        self._policy = policy
        self._hits = hits

    async def join(self, request: JoinsRequest) -> JoinsReply:
        """Bring a user in, and those who came along. Raises what stands in the way of the first of them.

        That is :class:`FirstRefused` where others came along and the gateway reads it: it tells what became of them.
        """
        # Only the first says that all of them are tried again.
        again = {"attempt": request.attempt}
        all_ = (request, *(each.model_copy(update=again) for each in request.also or ()))
        came = await self._bring_in(all_)
        first = came[0]
        if isinstance(first, Exception):
            if request.also and request.outcomes and isinstance(first, SignallingError):
                raise await self._first_refused(first, all_[1:], came[1:])
            raise first  # an older gateway asks for each of the others then; none is brought in twice
        # Read after the write: call control writes its hold first and reads the sessions then, so at least one of
        # the two sees the other.
        busy = await self._store.busy_each(each.user for each in all_)
        if isinstance(busy[0], Exception):
            raise busy[0]
        if request.also is None:
            return _told(JoinsReply, first, busy=busy[0])
        also = tuple(_outcome(*each) for each in zip(came[1:], busy[1:], strict=True))
        return _told(JoinsReply, first, busy=busy[0], also=also)

    async def _first_refused(
        self, error: SignallingError, others: Sequence[JoinRequest], came: Sequence[Joined | Exception]
    ) -> FirstRefused:
        """Return what the gateway is told where only the others may have come in."""
        busy = await self._store.busy_each(each.user for each in others)
        also = [_outcome(*each) for each in zip(came, busy, strict=True)]
        fields = [each.model_dump(by_alias=True, exclude_none=True) for each in also]
        return FirstRefused(error.to_wire(), fields)

    async def _bring_in(self, requests: Sequence[JoinRequest]) -> list[Joined | Exception]:
        """What became of each.

        Who does not resume is probably not there: that is tried before anything is read, for all of them at once, and
        not when it is tried again.
        """
        came: list[Any] = []
        later: list[tuple[int, Minted, set[str]]] = []
        free = [_is_counted(each) or self._limiter.admits_at_once(each.user) for each in requests]
        tried = [
            self._try(each) if is_free and each.resume_session is None and not _is_counted(each) else None
            for each, is_free in zip(requests, free, strict=True)
        ]
        for number, (each, trying) in enumerate(zip(requests, tried, strict=True)):
            if trying is None:
                later.append((number, _mint(), set()))
                came.append(None)
                continue
            minted, joined, note, write = trying
            try:
                await write
                await note
                self._notifier.joined(each.user, joined)
                came.append(joined)
            except Conflict:
                later.append((number, minted, {minted.session}))
                came.append(None)
            except SignallingError as error:
                came.append(error)
        if later:
            done = await asyncio.gather(
                *(
                    self._come(requests[number], minted, noted, alone=len(requests) == 1, free=free[number])
                    for number, minted, noted in later
                ),
                return_exceptions=True,
            )
            for (number, _, _), outcome in zip(later, done, strict=True):
                came[number] = outcome
        return came

    def _try(self, request: JoinRequest) -> tuple[Minted, Joined, PendingRequest[int], PendingRequest[int]]:
        """Send what a user who is not there yet comes to: the note, and behind it the record."""
        minted = _mint()
        joined = model.join(None, request, self._policy, now_ms(), minted)
        note = self._store.note(request.gateway, minted.session, request.user)
        return minted, joined, note, self._store.create(joined.record)

    async def _come(
        self, request: JoinRequest, minted: Minted, noted: set[str], *, alone: bool, free: bool
    ) -> Joined:
        """Somebody who may be there. ``noted``: sessions that were, for this request.

        ``alone``: no other join waits for this one; else raises :class:`JoinAlone` if a gateway has to be asked.
        ``free``: this join is not charged. One that is refused changes nothing: its session may be resumed later.
        """
        if not free:
            await self._limiter.charge(request.user)
        try:
            joined = await self._join(request, minted, noted, alone=alone)
        except RateLimited:
            self._hits.hit("sessions_per_user")
            raise
        self._graces.continued(joined.was, *joined.gone)
        self._notifier.joined(request.user, joined)
        for old in joined.displaced:
            if old.gateway != request.gateway or old in joined.gone:
                await self._store.forget(old.gateway, old.session, request.user)
        return joined

    async def _join(self, request: JoinRequest, minted: Minted, noted: set[str], *, alone: bool) -> Joined:
        asked: list[tuple[Session, bool]] = []
        unheard: Session | None = None
        silent: Silent | None = None

        def note(joined: Joined) -> PendingRequest[int]:
            noted.add(joined.session.session)
            return self._store.note(request.gateway, joined.session.session, request.user)

        def decide(record: Sessions | None) -> Joined:
            session = model.maybe_unheard(record, request)
            if session is not None and (session, True) not in asked:
                raise _Unclear(session, unheard=True)
            if session is None or session != unheard:
                session = model.maybe_silent(record, request, self._policy)
                if session is not None and (session, False) not in asked:
                    raise _Unclear(session, unheard=False)
            return model.join(record, request, self._policy, now_ms(), minted, unheard=unheard, silent=silent)

        while True:
            try:
                joined = await self._store.change(request.user, decide, before=note)
            except _Unclear as unclear:
                session = unclear.session
                asked.append((session, unclear.unheard))
                if len(asked) > ASKED_MAX:
                    raise Unavailable from None
                if unclear.unheard:
                    if await self._connections.unheard(session):
                        unheard = session
                elif (await self._store.busy_each((request.user,))) == [True]:
                    since = session.lost_at
                    if since is None and not alone:
                        await self._forget(request, noted)
                        raise JoinAlone from None
                    if since is None:
                        since = await self._connections.silent_since(session)
                    if since is not None:
                        silent = Silent(session, since)
                continue
            except RateLimited:
                await self._forget(request, noted)
                raise
            if joined.session.session not in noted:
                await note(joined)  # it is there already; whoever wrote it may not have got the note through
            await self._forget(request, noted - {joined.session.session})
            return joined

    async def _forget(self, request: JoinRequest, unused: set[str]) -> None:
        """Sessions that did not come about. After an error it is not known whether one did: its note stays."""
        for session in unused:
            await self._store.forget(request.gateway, session, request.user)


def _is_counted(request: JoinRequest) -> bool:
    """Return True for a join that is asked for again: it has been counted, and may have been brought in."""
    return request.attempt > 1 or request.admitted


def _mint() -> Minted:
    fresh = secrets.token_urlsafe(48)  # both at once
    return Minted(session=fresh[:22], token=fresh[22:])


def _told(cls: type[R], joined: Joined, *, busy: bool, **more: Any) -> R:
    session = joined.session
    return cls(
        session=session.session,
        resume_token=joined.token,
        device=session.device,
        since=session.since,
        resumed=joined.resumed,
        continued=joined.continued,
        lost_at=joined.silent_since or (joined.was.lost_at if joined.was is not None else None),
        busy=busy,
        **more,
    )


def _outcome(came: Joined | Exception, busy: bool | Exception) -> AlsoJoined:
    """What one of several is told. Raises what is a defect of ours."""
    for failed in (came, busy):
        if isinstance(failed, SignallingError):
            return AlsoJoined(error=failed.to_wire())
        if isinstance(failed, Exception):
            raise failed
    assert isinstance(came, Joined) and isinstance(busy, bool)
    return AlsoJoined(reply=_told(JoinReply, came, busy=busy))
