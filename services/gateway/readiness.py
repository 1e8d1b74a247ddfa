"""Readiness: what a gateway lacks for letting clients join, for ``/readyz`` and, as it changes, for the log."""

import asyncio
from collections.abc import Callable

from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

LOOK_SECONDS = 0.5
QUIET_SECONDS = 10.0
"""Least time between two lines in the log."""
STARTING_SECONDS = 3.0
"""What is missing for so long after the start is not worth a line."""


class Readiness:
    """Logs each change of ``missing``, at most every ``quiet`` seconds; changes that come sooner share a line."""

    def __init__(self, missing: Callable[[], list[str]], *, quiet: float | None = None) -> None:
        self._missing = missing
        self._quiet = QUIET_SECONDS if quiet is None else quiet
        self._now: list[str] = []
        self._seen: set[str] = set()
        """Reasons since the last line."""
        self._changes = 0
        self._next = 0.0
        self._ticks = PeriodicTask("readiness", LOOK_SECONDS, self._check, at_once=True)

    def start(self) -> None:
        """Watch from now on."""
        self._next = asyncio.get_running_loop().time() + STARTING_SECONDS
        self._ticks.start()

    async def stop(self) -> None:
        """Stop watching."""
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
