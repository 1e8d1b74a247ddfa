"""How users come in: one, or several of one gateway in one request."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, TypeVar

from services.presence import model
from services.presence.grace import Graces
from services.presence.model import Joined, Minted, Policy
from services.presence.store import Store
from services.presence.teller import Teller
from shared.answers import Asking
from shared.clock import now_ms
from shared.contracts.presence import (
    AlsoJoined,
    JoinReply,
    JoinRequest,
    JoinsReply,
    JoinsRequest,
    Sessions,
)
from shared.errors import RateLimited, SignallingError
from shared.hits import Hits
from shared.kv import Conflict
from shared.together import together

R = TypeVar("R", bound=JoinReply)

UNHEARD_MS = 500
"""How long a client that shows a token for the second time may wait for its gateway to say that it was gone."""
_LOOK_SECONDS = 0.05


class _NotLostYet(Exception):
    """The client may be faster than the news that its last socket is gone."""


class Joins:
    """Brings users in."""

    def __init__(self, store: Store, teller: Teller, graces: Graces, policy: Policy, hits: Hits) -> None:
        self._store = store
        self._teller = teller
        self._graces = graces
        self._policy = policy
        self._hits = hits

    async def join(self, request: JoinsRequest) -> JoinsReply:
        """Bring a user in, and those who came along. Raises what stands in the way of the first of them."""
        all_ = (request, *(request.also or ()))
        came = await self._bring_in(all_)
        if isinstance(came[0], Exception):
            raise came[0]  # the gateway asks for each of the others then; none is brought in twice
        # Read after the write: call control writes its hold first and reads the sessions then, so at least one of
        # the two sees the other.
        busy = await self._store.busy_each(each.user for each in all_)
        if isinstance(busy[0], Exception):
            raise busy[0]
        if request.also is None:
            return _told(JoinsReply, came[0], busy=busy[0])
        also = tuple(_outcome(*each) for each in zip(came[1:], busy[1:], strict=True))
        return _told(JoinsReply, came[0], busy=busy[0], also=also)

    async def _bring_in(self, requests: Sequence[JoinRequest]) -> list[Joined | Exception]:
        """What became of each.

        Who does not resume is probably not there: that is tried before anything is read, for all of them at once, and
        not when it is tried again.
        """
        came: list[Any] = []
        later: list[tuple[int, Minted, set[str]]] = []
        tried = [
            self._try(each) if each.resume_session is None and each.attempt == 1 else None
            for each in requests
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
                self._teller.joined(each.user, joined)
                came.append(joined)
            except Conflict:
                later.append((number, minted, {minted.session}))
                came.append(None)
            except SignallingError as error:
                came.append(error)
        if later:
            done = await together(
                *(self._come(requests[number], minted, noted) for number, minted, noted in later)
            )
            for (number, _, _), outcome in zip(later, done, strict=True):
                came[number] = outcome
        return came

    def _try(self, request: JoinRequest) -> tuple[Minted, Joined, Asking[int], Asking[int]]:
        """Send what a user who is not there yet comes to: the note, and behind it the record."""
        minted = _mint()
        joined = model.join(None, request, self._policy, now_ms(), minted)
        note = self._store.note(request.gateway, minted.session, request.user)
        return minted, joined, note, self._store.create(joined.record)

    async def _come(self, request: JoinRequest, minted: Minted, noted: set[str]) -> Joined:
        """Somebody who may be there. ``noted``: sessions that were, for this request."""
        try:
            joined = await self._join(request, minted, noted)
        except RateLimited:
            self._hits.hit("sessions_per_user")
            raise
        self._graces.continued(joined.was, *joined.gone)
        self._teller.joined(request.user, joined)
        for old in joined.displaced:
            if old.gateway != request.gateway or old in joined.gone:
                await self._store.forget(old.gateway, old.session, request.user)
        return joined

    async def _join(self, request: JoinRequest, minted: Minted, noted: set[str]) -> Joined:
        patient_until = now_ms() + UNHEARD_MS

        def note(joined: Joined) -> Asking[int]:
            noted.add(joined.session.session)
            return self._store.note(request.gateway, joined.session.session, request.user)

        def decide(record: Sessions | None) -> Joined:
            now = now_ms()
            if now < patient_until and model.may_be_unheard(record, request):
                raise _NotLostYet
            return model.join(record, request, self._policy, now, minted)

        while True:
            try:
                joined = await self._store.change(request.user, decide, before=note)
            except _NotLostYet:
                await asyncio.sleep(_LOOK_SECONDS)
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


def _mint() -> Minted:
    fresh = secrets.token_urlsafe(48)  # both at once
    return Minted(session=fresh[:22], token=fresh[22:])


def _told(cls: type[R], joined: Joined, *, busy: bool, **more: Any) -> R:
    session = joined.session
    return cls(
        session=session.session,
        resume_token=session.resume_token,
        device=session.device,
        since=session.since,
        resumed=joined.resumed,
        continued=joined.continued,
        lost_at=joined.was.lost_at if joined.was is not None else None,
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
