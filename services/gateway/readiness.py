"""Readiness: reasons why clients cannot join here, for ``/readyz`` and, when they change, for the log."""

import asyncio
from collections.abc import Callable

from services.gateway.auth.authenticator import Authenticator
from services.gateway.sessions.gateway_lease import GatewayLease
from services.gateway.transport.socketio_server import SocketIOServer
from shared import subjects
from shared.messaging.membership import Membership
from shared.nats import storage_full
from shared.nats.connection import Bus
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

NEEDED = ("callcore", "presence")
"""The services without which clients cannot join."""
STORED_BY_JOINS = (subjects.STREAM_DEADLINES, f"KV_{subjects.BUCKET_SESSIONS}")
"""The streams without which clients cannot join."""
LOOK_SECONDS = 0.5


class HealthCheck:
    """Returns the reasons why clients cannot join here, and what works only in part."""

    def __init__(
        self, bus: Bus, members: Membership, server: SocketIOServer, lease: GatewayLease, auth: Authenticator
    ) -> None:
        self._bus = bus
        self._members = members
        self._server = server
        self._lease = lease
        self._auth = auth

    def missing(self) -> list[str]:
        """Return why clients cannot join here, in words; empty if they can."""
        if self._server.draining:
            return ["draining"]
        if not self._bus.connected:
            return ["NATS is out of reach"]
        reasons = [f"no {service} is there" for service in NEEDED if not self._members.alive(service)]
        full = tuple(name for name in self._members.full() if name in STORED_BY_JOINS)
        reasons += storage_full.reasons(full)
        return [*(reasons or self._lease.missing()), *self._auth.missing()]

    def impaired(self) -> list[str]:
        """Return which streams are full, in words; empty if none is."""
        return storage_full.reasons(tuple(sorted({*self._members.full(), *self._bus.full.streams()})))


class Readiness:
    """Logs each change of ``missing``.

    ``quiet``: seconds between two log lines at least; changes in between share a line. ``starting``: seconds after
    the start in which changes are not logged.
    """

    def __init__(
        self, missing: Callable[[], list[str]], *, quiet: float = 10.0, starting: float = 3.0
    ) -> None:
        self._missing = missing
        self._quiet = quiet
        self._starting = starting
        self._now: list[str] = []
        self._seen: set[str] = set()
        """Reasons since the last log line."""
        self._changes = 0
        self._next = 0.0
        self._ticks = PeriodicTask("readiness", LOOK_SECONDS, self._check, at_once=True)

    def start(self) -> None:
        """Begin to check."""
        self._next = asyncio.get_running_loop().time() + self._starting
        self._ticks.start()

    async def stop(self) -> None:
        """Stop."""
        await self._ticks.stop()

    def _check(self) -> None:
        self._look(asyncio.get_running_loop().time())

    def _look(self, now: float) -> None:
        missing = self._missing()
        self._seen.update(missing)
        if missing != self._now:
            self._now = missing
            self._changes += 1
        if not self._changes or now < self._next:
            return
        if missing:
            log.warning("not ready", missing=missing, changes=self._changes)
        elif self._seen:
            log.info("ready", was_missing=sorted(self._seen), changes=self._changes)
        self._changes, self._next = 0, now + self._quiet
        self._seen = set(missing)
