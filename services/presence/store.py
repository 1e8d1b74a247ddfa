"""The bucket ``sessions``, which presence alone writes, and the look into ``calls`` whether a user is held.

All reads are answered by the stream's leader. A decision that writes would be safe on a stale read too, for the
write would fail; a decision that there is nothing to write is not.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from shared import subjects
from shared.backoff import back_off
from shared.bus import Bus
from shared.contracts.presence import Sessions
from shared.errors import Unavailable
from shared.kv import Bucket, Conflict, NoBucket

TRIES = 30
"""Lost races before the client is told to try again: enough for dozens of devices of one user at once."""


class Change(Protocol):
    """What a decision comes to: the record as it is to be."""

    @property
    def record(self) -> Sessions | None: ...


C = TypeVar("C", bound=Change)


class Store:
    """Reads and writes of presence. Every method raises :class:`Unavailable` while NATS is away."""

    def __init__(self, bus: Bus) -> None:
        self._sessions = Bucket(bus, subjects.BUCKET_SESSIONS)
        self._calls = Bucket(bus, subjects.BUCKET_CALLS)

    async def change(self, user: str, decide: Callable[[Sessions | None], C]) -> C:
        """Read the user's sessions, ``decide``, and write what was decided if nobody wrote in between.

        ``decide`` is called again after each lost race, so it must not act. A decision whose record is the one it
        was given is not written. Whatever ``decide`` raises comes out; raises :class:`Unavailable` after
        :data:`TRIES` lost races.
        """
        key = subjects.key_user(user)
        for attempt in range(TRIES):
            entry = await self._sessions.get(key, fresh=True)
            record = Sessions.model_validate_json(entry.value) if entry.value else None
            decided = decide(record)
            if decided.record is record:
                return decided
            try:
                if decided.record is None:
                    await self._sessions.delete(key, entry.revision)
                else:
                    await self._sessions.put(key, decided.record.dump(), entry.revision)
            except Conflict:
                await back_off(attempt)
                continue
            return decided
        raise Unavailable

    async def online(self, user: str) -> bool:
        """Whether the user has a session."""
        return bool((await self._sessions.get(subjects.key_user(user), fresh=True)).value)

    async def busy(self, user: str) -> bool:
        """Whether a call holds the user. Without call control's bucket there are no calls."""
        try:
            return bool((await self._calls.get(subjects.key_user(user), fresh=True)).value)
        except NoBucket:
            return False
