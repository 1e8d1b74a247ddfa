"""Calls and holds in the bucket ``calls``: compare-and-set only.

A *hold* (``user.<user>``) says that a call has a user; a *call* (``call.<call>``) is the truth about it. A hold takes
effect with its call: the holds of both users are taken first, in the order of their keys, then the call is created.
So of two callers who want the same user, or each other, one is first at the first key they share. A hold whose call
has ended, or has not come about within :data:`FORMING_MS`, is void and may be taken over; whoever does so first
makes sure that the call cannot come about any more.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import NamedTuple

from services.callcore.state.model import SERVER, Address, Call, Reason, State
from shared import subjects
from shared.concurrency import finish_all
from shared.contracts.calls import FORMING_MS, Hold, Released
from shared.contracts.presence import Session, Sessions
from shared.nats.kv import ABSENT, Bucket, Conflict, Entry
from shared.observability import logs

log = logs.get(__name__)

TRIES = 40
"""Lost races, and waits for a call that is being formed, before the client is told to try again."""
ENDED_TTL_SECONDS = 60
"""How long the record of an ended call stays, so that a request tried again finds its own deed."""


SetDeadline = Callable[[Call], Future[None]]
"""Makes sure that a call ends at its ``expires_at`` if nobody answers it."""


class Held(NamedTuple):
    """A user's hold and its revision. ``hold`` is ``None`` for a free user.

    ``released``: of a user who was let go some seconds ago, what ended the call.
    """

    hold: Hold | None
    revision: int
    released: Released | None = None


class Found(NamedTuple):
    """A call and its revision."""

    call: Call
    revision: int


class Store:
    """Reads and writes of call control; reads of presence's bucket."""

    def __init__(self, calls: Bucket, sessions: Bucket) -> None:
        self._calls = calls
        self._sessions = sessions

    async def lost_race(self, attempt: int) -> None:
        """Wait a little before what somebody else was first at is decided again."""
        await self._calls.lost_race(attempt)

    # --- sessions (presence's, read only) ---

    def sessions(self, user: str, *, fresh: bool) -> Future[tuple[Session, ...]]:
        """The sessions of a user; empty for a user who is offline."""
        return self._sessions.get(subjects.key_user(user), fresh=fresh, read=_sessions)

    # --- holds ---

    def held(self, user: str) -> Future[Held]:
        """What holds the user, void or not."""
        return self._calls.get(subjects.key_user(user), fresh=True, read=_held)

    def hold(self, user: str, hold: Hold, revision: int) -> Future[int]:
        """Take a user who is at ``revision``; the new revision. Raises :class:`Conflict`."""
        return self._calls.put(subjects.key_user(user), hold.dump(), revision)

    async def release(self, user: str, revision: int, note: bytes = b"") -> bool:
        """Let a user go who is still held at ``revision``; whether that was so."""
        try:
            await self._calls.delete(subjects.key_user(user), revision, note)
        except Conflict:
            return False
        return True

    async def give_back(self, taken: dict[str, int]) -> None:
        """Release users who are still held at these revisions, as far as that is possible now."""
        await asyncio.gather(
            *(self.release(user, revision) for user, revision in taken.items()), return_exceptions=True
        )

    async def let_go(self, user: str, call: str, revision: int | None = None, note: bytes = b"") -> bool:
        """Release a user if ``call`` holds them. Return whether that was so.

        ``revision`` saves the read where it is right.
        """
        if revision and await self.release(user, revision, note):
            return True
        held = await self.held(user)
        if held.hold is not None and held.hold.call == call:
            return await self.release(user, held.revision, note)
        return False

    async def void(self, hold: Hold, now: int) -> bool:
        """Whether the hold is void at ``now``; if it is, its call cannot come about any more."""
        found = await self.call(hold.call)
        if found is not None:
            return found.call.state is State.ENDED
        if now - hold.since < FORMING_MS:
            return False
        if not await self._prevent(hold, now):
            return False
        log.warning("void hold", call=hold.call)
        return True

    async def abandon(self, user: str, hold: Hold, now: int) -> bool:
        """Give up placing a call for ``user``: unless it has come about it never will, and both users are let go.

        Return false if it has come about, and lives.
        """
        if not await self._prevent(hold, now):
            found = await self.call(hold.call)
            if found is None or found.call.state is not State.ENDED:
                return False
        await finish_all(self.let_go(user, hold.call), self.let_go(hold.peer, hold.call))
        return True

    async def _prevent(self, hold: Hold, now: int) -> bool:
        """Make sure that the call of a hold cannot come about any more. Return whether it had not."""
        try:
            await self.create(_tombstone(hold, now), ttl=ENDED_TTL_SECONDS)
        except Conflict:
            return False
        return True

    # --- calls ---

    def call(self, call: str, *, fresh: bool = True) -> Future[Found | None]:
        """The record of a call, as the stream's leader has it; ``None`` for an unknown one.

        Without ``fresh`` as any replica has it, which works while a leader is being elected too.
        """
        return self._calls.get(subjects.key_call(call), fresh=fresh, read=_found)

    def create(self, call: Call, *, ttl: int | None = None) -> Future[int]:
        """Bring the call about; its revision. Raises :class:`Conflict` if the id is taken."""
        return self._calls.put(subjects.key_call(call.call), call.dump(), ABSENT, ttl=ttl)

    async def update(self, call: Call, revision: int) -> int:
        """Store what a call has become, if it still is at ``revision``; for an ended call also let both users go.

        Raises :class:`Conflict`. When it returns, both users are free for everyone who asks.
        """
        ended = call.state is State.ENDED
        new = await self._calls.put(
            subjects.key_call(call.call), call.dump(), revision, ttl=ENDED_TTL_SECONDS if ended else None
        )
        if ended:
            await self.let_both_go(call)
        return new

    async def rewrite(self, call: Call, revision: int) -> int:
        """Store what has become known of an ended call, for as long as such records stay. Raises :class:`Conflict`."""
        return await self._calls.put(
            subjects.key_call(call.call), call.dump(), revision, ttl=ENDED_TTL_SECONDS
        )

    async def let_both_go(self, call: Call) -> None:
        """Let both users of an ended call go. Safe to do again."""
        note = Released(call=call.call, cause=call.caused_by).dump()
        await finish_all(
            self.let_go(call.caller, call.call, call.holds[0], note),
            self.let_go(call.callee, call.call, call.holds[1], note),
        )

    async def keys(self) -> list[str]:
        """All keys of the bucket, for the sweep."""
        return await self._calls.keys()


def _sessions(entry: Entry) -> tuple[Session, ...]:
    return Sessions.model_validate_json(entry.value).sessions if entry.value else ()


def _held(entry: Entry) -> Held:
    if entry.value:
        return Held(Hold.model_validate_json(entry.value), entry.revision)
    released = Released.model_validate_json(entry.note) if entry.note else None
    return Held(None, entry.revision, released)


def _found(entry: Entry) -> Found | None:
    return Found(Call.model_validate_json(entry.value), entry.revision) if entry.value else None


def _tombstone(hold: Hold, now: int) -> Call:
    return Call(
        call=hold.call,
        state=State.ENDED,
        caller=hold.peer,
        callee=hold.peer,
        caller_at=Address(session="", gateway=""),
        call_type="audio",
        created_at=hold.since,
        expires_at=hold.since,
        ended_at=now,
        ended_by=SERVER,
        reason=Reason.VOID,
        caused_by="",
    )
