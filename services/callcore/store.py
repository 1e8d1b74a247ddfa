"""Store calls and reservations in the bucket ``calls``, by compare-and-set only.

A *reservation* (``user.<user>``) binds a user to a call; a *call* (``call.<call>``) is the truth about it. A
reservation takes effect with its call: the users are reserved first, in the order of their keys, then the call is
created. So of two callers who want the same user, or each other, one is first at the first key they share.

A reservation is void if its call has ended, or was not created within :data:`FORMING_MS`. A void one may be replaced;
the instance that does so first makes sure that the call cannot be created any more.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import NamedTuple

from services.callcore.state.model import SERVER, Address, Call, Reason, State
from shared import subjects
from shared.concurrency import finish_all
from shared.contracts.calls import FORMING_MS, Released, Reservation
from shared.contracts.presence import Session, Sessions
from shared.nats.kv import ABSENT, Bucket, Conflict, Entry
from shared.observability import logs

log = logs.get(__name__)

TRIES = 40
"""Lost races, and waits for a call that is being created, before the client gets `unavailable`."""
ENDED_TTL_SECONDS = 60
"""Seconds that the record of an ended call is kept, so that a repeated request finds its own transition."""


SetDeadline = Callable[[Call], Future[None]]
"""Schedules the ring deadline of a call for its ``expires_at``."""


class ReservationEntry(NamedTuple):
    """A user's reservation and its revision. ``reservation`` is ``None`` for a free user.

    ``released``: what ended the call, for a user who was released some seconds ago.
    """

    reservation: Reservation | None
    revision: int
    released: Released | None = None


class Found(NamedTuple):
    """A call and its revision."""

    call: Call
    revision: int


class Store:
    """Reads and writes the bucket ``calls``; reads presence's bucket ``sessions``."""

    def __init__(self, calls: Bucket, sessions: Bucket) -> None:
        self._calls = calls
        self._sessions = sessions

    async def lost_race(self, attempt: int) -> None:
        """Back off before a decision is repeated because another writer was first."""
        await self._calls.lost_race(attempt)

    # --- sessions (presence's, read only) ---

    def sessions(self, user: str, *, fresh: bool) -> Future[tuple[Session, ...]]:
        """Read the sessions of a user; empty for a user who is offline."""
        return self._sessions.get(subjects.key_user(user), fresh=fresh, read=_sessions)

    # --- reservations ---

    def reservation(self, user: str) -> Future[ReservationEntry]:
        """Read the reservation of a user, void or not."""
        return self._calls.get(subjects.key_user(user), fresh=True, read=_reservation_entry)

    def reserve(self, user: str, reservation: Reservation, revision: int) -> Future[int]:
        """Reserve a user whose entry is at ``revision``; return the new revision. Raises :class:`Conflict`."""
        return self._calls.put(subjects.key_user(user), reservation.dump(), revision)

    async def release(self, user: str, revision: int, note: bytes = b"") -> bool:
        """Release a user whose reservation is at ``revision``. Return False if it is at another one."""
        try:
            await self._calls.delete(subjects.key_user(user), revision, note)
        except Conflict:
            return False
        return True

    async def release_all(self, taken: dict[str, int]) -> None:
        """Release users whose reservations are at these revisions; errors are ignored."""
        await asyncio.gather(
            *(self.release(user, revision) for user, revision in taken.items()), return_exceptions=True
        )

    async def release_from(
        self, user: str, call: str, revision: int | None = None, note: bytes = b""
    ) -> bool:
        """Release a user if ``call`` reserves them. Return False if it does not.

        ``revision`` saves the read if it is current.
        """
        if revision and await self.release(user, revision, note):
            return True
        entry = await self.reservation(user)
        if entry.reservation is not None and entry.reservation.call == call:
            return await self.release(user, entry.revision, note)
        return False

    async def confirm_void(self, reservation: Reservation, now: int) -> bool:
        """Return True if the reservation is void at ``now``; its call cannot be created any more then."""
        found = await self.call(reservation.call)
        if found is not None:
            return found.call.state is State.ENDED
        if now - reservation.since < FORMING_MS:
            return False
        if not await self._prevent_creation(reservation, now):
            return False
        log.warning("void reservation", call=reservation.call)
        return True

    async def abandon(self, user: str, reservation: Reservation, now: int) -> bool:
        """Give up the call set-up of ``user``: prevent its call and release both users.

        Return False if the call was created already and lives.
        """
        if not await self._prevent_creation(reservation, now):
            found = await self.call(reservation.call)
            if found is None or found.call.state is not State.ENDED:
                return False
        await finish_all(
            self.release_from(user, reservation.call), self.release_from(reservation.peer, reservation.call)
        )
        return True

    async def _prevent_creation(self, reservation: Reservation, now: int) -> bool:
        """Write a tombstone for the call of a reservation. Return False if the call was created before."""
        try:
            await self.create(_tombstone(reservation, now), ttl=ENDED_TTL_SECONDS)
        except Conflict:
            return False
        return True

    # --- calls ---

    def call(self, call: str, *, fresh: bool = True) -> Future[Found | None]:
        """Read a call from the stream's leader; ``None`` for an unknown one.

        Without ``fresh`` any replica answers, which also works while a leader is being elected.
        """
        return self._calls.get(subjects.key_call(call), fresh=fresh, read=_found)

    def create(self, call: Call, *, ttl: int | None = None) -> Future[int]:
        """Create the call; return its revision. Raises :class:`Conflict` if the id is taken."""
        return self._calls.put(subjects.key_call(call.call), call.dump(), ABSENT, ttl=ttl)

    async def update(self, call: Call, revision: int) -> int:
        """Store a transition of the call that is at ``revision``; release both users of an ended call.

        Raises :class:`Conflict`. When it returns, both users are free for every reader.
        """
        ended = call.state is State.ENDED
        new = await self._calls.put(
            subjects.key_call(call.call), call.dump(), revision, ttl=ENDED_TTL_SECONDS if ended else None
        )
        if ended:
            await self.release_both(call)
        return new

    async def rewrite(self, call: Call, revision: int) -> int:
        """Store notes in the record of an ended call and renew its TTL. Raises :class:`Conflict`."""
        return await self._calls.put(
            subjects.key_call(call.call), call.dump(), revision, ttl=ENDED_TTL_SECONDS
        )

    async def release_both(self, call: Call) -> None:
        """Release both users of an ended call. Idempotent."""
        note = Released(call=call.call, cause=call.caused_by).dump()
        await finish_all(
            self.release_from(call.caller, call.call, call.holds[0], note),
            self.release_from(call.callee, call.call, call.holds[1], note),
        )

    async def keys(self) -> list[str]:
        """Read all keys of the bucket, for the reconciler."""
        return await self._calls.keys()


def _sessions(entry: Entry) -> tuple[Session, ...]:
    return Sessions.model_validate_json(entry.value).sessions if entry.value else ()


def _reservation_entry(entry: Entry) -> ReservationEntry:
    if entry.value:
        return ReservationEntry(Reservation.model_validate_json(entry.value), entry.revision)
    released = Released.model_validate_json(entry.note) if entry.note else None
    return ReservationEntry(None, entry.revision, released)


def _found(entry: Entry) -> Found | None:
    return Found(Call.model_validate_json(entry.value), entry.revision) if entry.value else None


def _tombstone(reservation: Reservation, now: int) -> Call:
    """Return an ended call that keeps the call of a reservation from being created."""
    return Call(
        call=reservation.call,
        state=State.ENDED,
        caller=reservation.peer,
        callee=reservation.peer,
        caller_at=Address(session="", gateway=""),
        call_type="audio",
        created_at=reservation.since,
        expires_at=reservation.since,
        ended_at=now,
        ended_by=SERVER,
        reason=Reason.VOID,
        caused_by="",
    )
