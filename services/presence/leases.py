"""Leases of gateways: a gateway that lives keeps moving its deadline ahead; when it comes, its sessions are lost.

The deadline may come although the gateway lives, because NATS or every presence was away. So it is asked first, and
nobody is given up by an instance that has only just got back to NATS itself: the gateway may be on its way, too.
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
"""Sessions of a dead gateway that are dealt with before the next deadline, which any instance may take."""
AT_ONCE = 8
"""How many of them at a time, so that joins get their turn."""
ASK_SECONDS = 1.0

_LEASE_MS = int(LEASE_SECONDS * 1000)


class Leases:
    """Deadlines of kind ``lease``, one for each gateway."""

    def __init__(self, bus: Bus, store: Store, graces: GracePeriods) -> None:
        self._bus = bus
        self._store = store
        self._graces = graces
        self.gone = {"left": 0, "died": 0}
        """Gateways that were given up: those that said goodbye, and those that did not."""

    async def renew(self, gateway: str) -> tuple[bool, Lease]:
        """Move the deadline of a gateway ahead. Return whether it counted as alive until now, and its lease.

        If it did not, its sessions may be lost or forgotten.
        """
        await set_deadline(self._bus, subjects.LEASE, gateway, now_ms() + _LEASE_MS)
        lease = await self._store.lease(gateway)
        if lease is not None:
            return True, lease
        lease = Lease(since=now_ms())
        await self._store.grant(gateway, lease)
        log.info("gateway is here", gateway=gateway)
        return False, lease

    async def give_up(self, gateway: str) -> None:
        """The gateway stops: what it leaves behind is lost at once."""
        await self._store.grant(gateway, Lease(since=now_ms(), leaving=True))
        await set_deadline(self._bus, subjects.LEASE, gateway, now_ms())

    async def due(self, gateway: str, payload: bytes) -> None:
        """The deadline of a gateway has come. ``payload``: the session after which to go on.

        Raises :class:`shared.errors.Unavailable` to get it again.
        """
        after = payload.decode()
        if not after and not await self._is_dead(gateway):
            await set_deadline(self._bus, subjects.LEASE, gateway, now_ms() + _LEASE_MS)
            return
        # First of all: if it comes back from now on, it is told to reassert its sessions.
        await self._store.revoke(gateway)
        left = [(session, user) for session, user in await self._store.at(gateway) if session > after]
        if not after:
            log.warning("gateway is gone", gateway=gateway)
        batch = left[:BATCH]
        lost = await self._lose(gateway, batch)
        log.info("sessions of a gateway that is gone begin their grace", gateway=gateway, sessions=lost)
        back = await self._store.lease(gateway)
        if back is not None and lost:
            # It may have reasserted a session just before that one was lost here: a new lease has it do so again.
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
            await self._bus.request(subjects.alive(gateway), b"", timeout=ASK_SECONDS)
        except Unavailable:
            dead = self._bus.connected
            self.gone["died"] += dead
            return dead
        return False

    async def _lose(self, gateway: str, batch: list[tuple[str, str]]) -> int:
        """Put those of them into their grace that are still there; how many that are."""
        free = asyncio.Semaphore(AT_ONCE)

        async def lose(session: str, user: str) -> bool:
            async with free:
                begun = await self._graces.begin(user, session, gateway)
                if not begun:
                    await self._store.forget(gateway, session, user)  # it has moved on, or is gone
                return begun

        done = await asyncio.gather(*(lose(*each) for each in batch), return_exceptions=True)
        for error in done:
            if isinstance(error, SignallingError):
                raise error
            if isinstance(error, BaseException):
                log.error("session not given up", gateway=gateway, error=repr(error))
        return sum(each is True for each in done)
