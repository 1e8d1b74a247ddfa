"""Leases of gateways: a live gateway renews its lease; when the lease expires, its sessions are lost.

A lease may expire although the gateway lives, because NATS or every presence was away. So presence sends the gateway a
request first. An instance that has only just reconnected to NATS ends no lease: the gateway may be reconnecting, too.
"""

import asyncio
import time

from services.presence.grace_periods import GracePeriods
from services.presence.store import Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.presence import LEASE_SECONDS, Lease
from shared.errors import SignallingError, Unavailable
from shared.messaging.timers import set_deadline
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)

BATCH = 500
"""Sessions of a dead gateway that one deadline handles; the next deadline may be handled by another instance."""
CONCURRENCY = 8
"""Sessions that are handled concurrently, which leaves capacity for joins."""
REQUEST_SECONDS = 1.0
"""Seconds that a gateway has to reply that it lives."""

_LEASE_MS = int(LEASE_SECONDS * 1000)


class Leases:
    """Sets and handles the deadlines of kind ``lease``, one for each gateway. ``batch``: see :data:`BATCH`."""

    def __init__(self, bus: Bus, store: Store, graces: GracePeriods, *, batch: int = BATCH) -> None:
        self._bus = bus
        self._store = store
        self._graces = graces
        self._batch = batch
        self.gone = {"left": 0, "died": 0}
        """Gateways whose lease ended: in good order, or not."""

    async def renew(self, gateway: str) -> tuple[bool, Lease]:
        """Renew the lease of a gateway. Return whether it counted as alive until now, and its lease.

        If it did not, its sessions may be lost or deleted.
        """
        await set_deadline(self._bus, subjects.LEASE, gateway, now_ms() + _LEASE_MS)
        lease = await self._store.lease(gateway)
        if lease is not None:
            return True, lease
        lease = Lease(since=now_ms())
        await self._store.grant(gateway, lease)
        log.info("gateway lease granted", gateway=gateway)
        return False, lease

    async def give_up(self, gateway: str) -> None:
        """End the lease of a gateway that stops: the sessions that it leaves are lost at once."""
        await self._store.grant(gateway, Lease(since=now_ms(), leaving=True))
        await set_deadline(self._bus, subjects.LEASE, gateway, now_ms())

    async def due(self, gateway: str, payload: bytes) -> None:
        """End the lease of a gateway that is dead. ``payload``: the session after which the last batch ended.

        Raises :class:`shared.errors.Unavailable` to be called again.
        """
        after = payload.decode()
        if not after and not await self._is_dead(gateway):
            await set_deadline(self._bus, subjects.LEASE, gateway, now_ms() + _LEASE_MS)
            return
        # First: a gateway that renews its lease from now on gets the reply to reassert its sessions.
        await self._store.revoke(gateway)
        left = [(session, user) for session, user in await self._store.at(gateway) if session > after]
        if not after:
            log.warning("gateway is gone", gateway=gateway)
        batch = left[: self._batch]
        lost = await self._lose(gateway, batch)
        log.info("grace periods begun for a gateway that is gone", gateway=gateway, sessions=lost)
        back = await self._store.lease(gateway)
        if back is not None and lost:
            # It may have reasserted a session just before this instance lost it: a new lease has it do so again.
            await self._store.grant(gateway, Lease(since=max(now_ms(), back.since + 1), leaving=back.leaving))
        elif back is None and len(left) > len(batch):
            await set_deadline(self._bus, subjects.LEASE, gateway, now_ms(), batch[-1][0].encode())

    async def _is_dead(self, gateway: str) -> bool:
        lease = await self._store.lease(gateway)
        if lease is not None and lease.leaving:
            self.gone["left"] += 1
            return True
        if time.monotonic() - self._bus.connected_since < LEASE_SECONDS:
            return False
        try:
            await self._bus.request(subjects.alive(gateway), b"", timeout=REQUEST_SECONDS)
        except Unavailable:
            dead = self._bus.connected
            self.gone["died"] += dead
            return dead
        return False

    async def _lose(self, gateway: str, batch: list[tuple[str, str]]) -> int:
        """Begin the grace periods of those sessions that are still at the gateway; return their number."""
        free = asyncio.Semaphore(CONCURRENCY)

        async def lose(session: str, user: str) -> bool:
            async with free:
                begun = await self._graces.begin(user, session, gateway)
                if not begun:
                    await self._store.forget(gateway, session, user)  # it has moved, or is gone
                return begun

        done = await asyncio.gather(*(lose(*each) for each in batch), return_exceptions=True)
        for error in done:
            if isinstance(error, SignallingError):
                raise error
            if isinstance(error, BaseException):
                log.error("session not lost", gateway=gateway, error=repr(error))
        return sum(each is True for each in done)
