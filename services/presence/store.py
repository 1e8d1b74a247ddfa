"""The bucket ``sessions``, which presence alone writes, and the look into ``calls`` whether a user is held.

``user.<user>`` is the truth about a user's sessions. ``at.<gateway>.<session>.<user>`` says where to look when a
gateway dies: it is written before the session is, and wrong where the session has moved on meanwhile.
``gateway.<gateway>`` says that the gateway counts as alive.

All reads are answered by the stream's leader. A decision that writes would be safe on a stale read too, for the
write would fail; a decision that there is nothing to write is not.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast

from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import FORMING_MS, CallState, Released, Reservation
from shared.contracts.presence import Lease, Session, Sessions
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, Bucket, Conflict, Entry, NoBucket
from shared.nats.pending_requests import PendingRequest

TRIES = 30
"""Lost races before the client is told to try again: enough for dozens of devices of one user at once."""


class Change(Protocol):
    """What a decision comes to: the record as it is to be."""

    @property
    def record(self) -> Sessions | None: ...


C = TypeVar("C", bound=Change)


def _is_there(entry: Entry) -> bool:
    return bool(entry.value)


def _hold(entry: Entry) -> Reservation | None:
    return Reservation.model_validate_json(entry.value) if entry.value else None


def _lives(entry: Entry) -> bool:
    return entry.value is not None and CallState.model_validate_json(entry.value).state != CallState.ENDED


class Store:
    """Reads and writes of presence. Every method raises :class:`Unavailable` while NATS is away."""

    def __init__(self, bus: Bus) -> None:
        self._sessions = Bucket(bus, subjects.BUCKET_SESSIONS)
        self._calls = Bucket(bus, subjects.BUCKET_CALLS)
        self.buckets = (self._sessions, self._calls)

    async def change(
        self,
        user: str,
        decide: Callable[[Sessions | None], C],
        *,
        before: Callable[[C], PendingRequest[Any]] | None = None,
    ) -> C:
        """Read the user's sessions, ``decide``, and write what was decided if nobody wrote in between.

        ``before``: what has to be stored before the record is; it is sent first, on the same connection, and waited
        for like the write. ``decide`` is called again after each lost race, so it must not act. A decision whose
        record is the one it was given is not written. Whatever ``decide`` raises comes out; raises
        :class:`Unavailable` after :data:`TRIES` lost races.
        """
        key = subjects.key_user(user)
        for attempt in range(TRIES):
            entry = await self._sessions.get(key, fresh=True)
            record = Sessions.model_validate_json(entry.value) if entry.value else None
            decided = decide(record)
            if decided.record is record:
                return decided
            try:
                await self._write(key, decided, entry.revision, before)
            except Conflict:
                await self._sessions.lost_race(attempt)
                continue
            return decided
        raise Unavailable

    async def _write(
        self,
        key: str,
        decided: C,
        revision: int,
        before: Callable[[C], PendingRequest[Any]] | None,
    ) -> None:
        # What goes first is sent first, on the same connection, and nobody waits twice.
        first = before(decided) if before is not None else None
        if decided.record is None:
            await self._sessions.delete(key, revision)
        else:
            await self._sessions.put(key, decided.record.dump(), revision)
        if first is not None:
            await first

    def create(self, record: Sessions) -> PendingRequest[int]:
        """Write a user's first record. Raises :class:`shared.nats.kv.Conflict`, once awaited, if there is one."""
        return self._sessions.put(subjects.key_user(record.user), record.dump(), ABSENT)

    async def sessions(self, user: str) -> tuple[Session, ...]:
        """The sessions of a user, lost ones included."""
        entry = await self._sessions.get(subjects.key_user(user), fresh=True)
        return Sessions.model_validate_json(entry.value).sessions if entry.value else ()

    async def in_call(self, user: str) -> bool:
        """Return whether the user is in a call, or about to be. Without call control's bucket there are no calls.

        Behind a hold that is too old to be about to become a call there must be one: placing it may have been given up,
        or died, before anybody could let the user go.
        """
        try:
            hold = await self._calls.get(subjects.key_user(user), fresh=True, read=_hold)
            if hold is None or now_ms() - hold.since < FORMING_MS:
                return hold is not None
            return await self._calls.get(subjects.key_call(hold.call), fresh=True, read=_lives)
        except NoBucket:
            return False

    async def concerned(self, user: str, cause: str) -> str | None:
        """Return the id of the call that holds the user, or that the request with the id ``cause`` ended lately."""

        def call_of(entry: Entry) -> str | None:
            if entry.value:
                return Reservation.model_validate_json(entry.value).call
            released = Released.model_validate_json(entry.note) if entry.note else None
            return released.call if released is not None and released.cause == cause else None

        try:
            return await self._calls.get(subjects.key_user(user), fresh=True, read=call_of)
        except NoBucket:
            return None

    async def busy_each(self, users: Iterable[str]) -> list[bool | Unavailable]:
        """The same of several, asked at once; what could not be read is among them."""
        asked = (self._calls.get(subjects.key_user(user), fresh=True, read=_is_there) for user in users)
        results = await asyncio.gather(*asked, return_exceptions=True)
        # A read raises nothing but Unavailable, of which NoBucket is one.
        return [
            False if isinstance(held, NoBucket) else held for held in cast(list[bool | Unavailable], results)
        ]

    # --- gateways -------------------------------------------------------------------------------------------------

    def note(self, gateway: str, session: str, user: str) -> PendingRequest[int]:
        """The session is about to be at the gateway."""
        return self._sessions.set(subjects.key_at(gateway, session, user))

    async def forget(self, gateway: str, session: str, user: str) -> None:
        """The session is not at the gateway any more."""
        await self._sessions.unset(subjects.key_at(gateway, session, user))

    async def at(self, gateway: str) -> list[tuple[str, str]]:
        """``(session, user)`` of the sessions that are, or were of late, at a gateway; always in the same order."""
        keys = await self._sessions.keys(subjects.key_at_all(gateway))
        return [subjects.parse_key_at(key) for key in sorted(keys)]

    async def count_users(self) -> int:
        """Count users with a session. Raises :class:`shared.errors.Unavailable`."""
        return await self._sessions.count(subjects.key_user_all())

    async def lease(self, gateway: str) -> Lease | None:
        """The lease of a gateway; ``None`` for one that does not count as alive."""
        entry = await self._sessions.get(subjects.key_gateway(gateway), fresh=True)
        return Lease.model_validate_json(entry.value) if entry.value else None

    async def grant(self, gateway: str, lease: Lease) -> None:
        """From now on the gateway counts as alive."""
        await self._sessions.set(subjects.key_gateway(gateway), lease.dump())

    async def revoke(self, gateway: str) -> None:
        """From now on the gateway counts as dead."""
        await self._sessions.unset(subjects.key_gateway(gateway))
