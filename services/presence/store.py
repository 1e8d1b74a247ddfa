"""Read and write the bucket ``sessions``, and read from ``calls`` whether a call reserves a user.

``user.<user>`` is the truth about a user's sessions. ``at.<gateway>.<session>.<user>`` lists the sessions of a gateway
for when it dies: the entry is written before the session, and is outdated once the session has moved.
``gateway.<gateway>`` is the lease of a gateway that counts as alive.

Presence alone writes ``sessions``. The stream's leader answers all reads. A decision that writes would be safe on a
stale read too, because the write would fail; a decision that there is nothing to write is not.
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
"""Lost races before the client gets `unavailable`: enough for dozens of devices of one user at once."""


class Change(Protocol):
    """The outcome of a decision. ``record``: the record to write."""

    @property
    def record(self) -> Sessions | None:
        """Return the record to write; ``None`` for nothing to write."""


C = TypeVar("C", bound=Change)


def _exists(entry: Entry) -> bool:
    return bool(entry.value)


def _reservation(entry: Entry) -> Reservation | None:
    return Reservation.model_validate_json(entry.value) if entry.value else None


def _lives(entry: Entry) -> bool:
    return entry.value is not None and CallState.model_validate_json(entry.value).state != CallState.ENDED


class Store:
    """Reads and writes for presence. Each method raises :class:`Unavailable` while NATS is away."""

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
        """Read the user's sessions, ``decide``, and write the decision unless the record has changed in between.

        ``before``: a write that is sent before the record, on the same connection, and awaited like it. ``decide`` is
        called again after each lost race, so it must have no effects. A decision that returns the record it was
        given is not written. Raises what ``decide`` raises, and :class:`Unavailable` after :data:`TRIES` lost races.
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
        # Sent first, on the same connection, and awaited after the write: one round trip for both.
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
        """Read the sessions of a user, lost ones included."""
        entry = await self._sessions.get(subjects.key_user(user), fresh=True)
        return Sessions.model_validate_json(entry.value).sessions if entry.value else ()

    async def in_call(self, user: str) -> bool:
        """Return True if the user is in a call, or about to be. Without call control's bucket there are no calls.

        A reservation older than the call set-up counts only if its call lives: the set-up may have failed, or its
        instance died, before the user was released.
        """
        try:
            reservation = await self._calls.get(subjects.key_user(user), fresh=True, read=_reservation)
            if reservation is None or now_ms() - reservation.since < FORMING_MS:
                return reservation is not None
            return await self._calls.get(subjects.key_call(reservation.call), fresh=True, read=_lives)
        except NoBucket:
            return False

    async def call_of(self, user: str, cause: str) -> str | None:
        """Return the id of the call that reserves the user, or that the request ``cause`` ended some seconds ago."""

        def read_call(entry: Entry) -> str | None:
            if entry.value:
                return Reservation.model_validate_json(entry.value).call
            released = Released.model_validate_json(entry.note) if entry.note else None
            return released.call if released is not None and released.cause == cause else None

        try:
            return await self._calls.get(subjects.key_user(user), fresh=True, read=read_call)
        except NoBucket:
            return None

    async def busy_each(self, users: Iterable[str]) -> list[bool | Unavailable]:
        """Return for each user whether a call reserves them, or the error of the read. All are read at once."""
        reads = (self._calls.get(subjects.key_user(user), fresh=True, read=_exists) for user in users)
        results = await asyncio.gather(*reads, return_exceptions=True)
        # A read raises nothing but Unavailable, of which NoBucket is one.
        return [
            False if isinstance(busy, NoBucket) else busy for busy in cast(list[bool | Unavailable], results)
        ]

    # --- gateways -------------------------------------------------------------------------------------------------

    def note(self, gateway: str, session: str, user: str) -> PendingRequest[int]:
        """Note that the session is about to be at the gateway."""
        return self._sessions.set(subjects.key_at(gateway, session, user))

    async def forget(self, gateway: str, session: str, user: str) -> None:
        """Delete the note that the session is at the gateway."""
        await self._sessions.unset(subjects.key_at(gateway, session, user))

    async def at(self, gateway: str) -> list[tuple[str, str]]:
        """Return ``(session, user)`` of the sessions noted at a gateway, sorted; some may have moved."""
        keys = await self._sessions.keys(subjects.key_at_all(gateway))
        return [subjects.parse_key_at(key) for key in sorted(keys)]

    async def count_users(self) -> int:
        """Count users with a session. Raises :class:`shared.errors.Unavailable`."""
        return await self._sessions.count(subjects.key_user_all())

    async def lease(self, gateway: str) -> Lease | None:
        """Read the lease of a gateway; ``None`` for one that does not count as alive."""
        entry = await self._sessions.get(subjects.key_gateway(gateway), fresh=True)
        return Lease.model_validate_json(entry.value) if entry.value else None

    async def grant(self, gateway: str, lease: Lease) -> None:
        """Store the lease of a gateway, which counts as alive from now on."""
        await self._sessions.set(subjects.key_gateway(gateway), lease.dump())

    async def revoke(self, gateway: str) -> None:
        """Delete the lease of a gateway, which counts as dead from now on."""
        await self._sessions.unset(subjects.key_gateway(gateway))
