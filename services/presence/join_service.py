"""Join users: one, or a batch of one gateway in one request."""

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

CHECKS_MAX = 8
"""Connections that one join may check: a session that moves each time is being joined by another request."""

R = TypeVar("R", bound=JoinReply)


class _CheckNeeded(Exception):
    """Raised if a join depends on the connection of a session, which its gateway has to check."""

    def __init__(self, session: Session, *, unheard: bool) -> None:
        super().__init__()
        self.session = session
        self.unheard = unheard


class JoinService:
    """Joins users."""

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
        """Join a batch of users. Raises the error of the first join.

        That is :class:`FirstRefused` for a batch whose gateway reads it: it carries the outcomes of the others.
        """
        # The attempt of the first join counts for all of them.
        again = {"attempt": request.attempt}
        all_ = (request, *(each.model_copy(update=again) for each in request.also or ()))
        outcomes = await self._join_each(all_)
        first = outcomes[0]
        if isinstance(first, Exception):
            if request.also and request.outcomes and isinstance(first, SignallingError):
                raise await self._first_refused(first, all_[1:], outcomes[1:])
            raise first  # an older gateway then requests each of the others; none is joined twice
        # Read after the write: call control writes its reservation first and reads the sessions then, so at least one
        # of the two sees the other.
        busy = await self._store.busy_each(each.user for each in all_)
        if isinstance(busy[0], Exception):
            raise busy[0]
        if request.also is None:
            return _reply(JoinsReply, first, busy=busy[0])
        also = tuple(_outcome(*each) for each in zip(outcomes[1:], busy[1:], strict=True))
        return _reply(JoinsReply, first, busy=busy[0], also=also)

    async def _first_refused(
        self, error: SignallingError, others: Sequence[JoinRequest], outcomes: Sequence[Joined | Exception]
    ) -> FirstRefused:
        """Return the error to reply where only joins after the first one may have succeeded."""
        busy = await self._store.busy_each(each.user for each in others)
        also = [_outcome(*each) for each in zip(outcomes, busy, strict=True)]
        fields = [each.model_dump(by_alias=True, exclude_none=True) for each in also]
        return FirstRefused(error.to_wire(), fields)

    async def _join_each(self, requests: Sequence[JoinRequest]) -> list[Joined | Exception]:
        """Return the outcome of each join.

        A user who does not resume probably has no session. So a first record is written without a read, for all of them
        at once; not for a repeated request.
        """
        outcomes: list[Any] = []
        later: list[tuple[int, Minted, set[str]]] = []
        free = [_is_counted(each) or self._limiter.admits_at_once(each.user) for each in requests]
        created = [
            self._create_record(each)
            if is_free and each.resume_session is None and not _is_counted(each)
            else None
            for each, is_free in zip(requests, free, strict=True)
        ]
        for number, (each, creation) in enumerate(zip(requests, created, strict=True)):
            if creation is None:
                later.append((number, _mint(), set()))
                outcomes.append(None)
                continue
            minted, joined, note, write = creation
            try:
                await write
                await note
                self._notifier.joined(each.user, joined)
                outcomes.append(joined)
            except Conflict:
                later.append((number, minted, {minted.session}))
                outcomes.append(None)
            except SignallingError as error:
                outcomes.append(error)
        if later:
            done = await asyncio.gather(
                *(
                    self._join_existing(
                        requests[number], minted, noted, alone=len(requests) == 1, free=free[number]
                    )
                    for number, minted, noted in later
                ),
                return_exceptions=True,
            )
            for (number, _, _), outcome in zip(later, done, strict=True):
                outcomes[number] = outcome
        return outcomes

    def _create_record(
        self, request: JoinRequest
    ) -> tuple[Minted, Joined, PendingRequest[int], PendingRequest[int]]:
        """Send the writes for a user without a session: the note of the gateway, then the record."""
        minted = _mint()
        joined = model.join(None, request, self._policy, now_ms(), minted)
        note = self._store.note(request.gateway, minted.session, request.user)
        return minted, joined, note, self._store.create(joined.record)

    async def _join_existing(
        self, request: JoinRequest, minted: Minted, noted: set[str], *, alone: bool, free: bool
    ) -> Joined:
        """Join a user who may have sessions. ``noted``: sessions noted at the gateway for this request.

        ``alone``: True if no other join waits for this one; else raises :class:`JoinAlone` if a gateway has to check.
        ``free``: True if this join is not charged. A refused join changes nothing: its session may be resumed later.
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
        checked: list[tuple[Session, bool]] = []
        unheard: Session | None = None
        silent: Silent | None = None

        def note(joined: Joined) -> PendingRequest[int]:
            noted.add(joined.session.session)
            return self._store.note(request.gateway, joined.session.session, request.user)

        def decide(record: Sessions | None) -> Joined:
            session = model.maybe_unheard(record, request)
            if session is not None and (session, True) not in checked:
                raise _CheckNeeded(session, unheard=True)
            if session is None or session != unheard:
                session = model.maybe_silent(record, request, self._policy)
                if session is not None and (session, False) not in checked:
                    raise _CheckNeeded(session, unheard=False)
            return model.join(record, request, self._policy, now_ms(), minted, unheard=unheard, silent=silent)

        while True:
            try:
                joined = await self._store.change(request.user, decide, before=note)
            except _CheckNeeded as needed:
                session = needed.session
                checked.append((session, needed.unheard))
                if len(checked) > CHECKS_MAX:
                    raise Unavailable from None
                if needed.unheard:
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
                await note(joined)  # it is stored already, but its note may not be
            await self._forget(request, noted - {joined.session.session})
            return joined

    async def _forget(self, request: JoinRequest, unused: set[str]) -> None:
        """Delete the notes of sessions that were not created. After an error that is not certain: its note stays."""
        for session in unused:
            await self._store.forget(request.gateway, session, request.user)


def _is_counted(request: JoinRequest) -> bool:
    """Return True for a repeated join: it was counted before, and may have been done."""
    return request.attempt > 1 or request.admitted


def _mint() -> Minted:
    fresh = secrets.token_urlsafe(48)  # both at once
    return Minted(session=fresh[:22], token=fresh[22:])


def _reply(cls: type[R], joined: Joined, *, busy: bool, **more: Any) -> R:
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


def _outcome(joined: Joined | Exception, busy: bool | Exception) -> AlsoJoined:
    """Return the reply to one join of a batch. Raises an error that is a defect."""
    for failed in (joined, busy):
        if isinstance(failed, SignallingError):
            return AlsoJoined(error=failed.to_wire())
        if isinstance(failed, Exception):
            raise failed
    assert isinstance(joined, Joined) and isinstance(busy, bool)
    return AlsoJoined(reply=_reply(JoinReply, joined, busy=busy))
