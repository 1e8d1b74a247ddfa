"""Limits that were hit: counted by name, and said in the log, seldom."""

from collections import Counter

from shared.observability import logs
from shared.observability.log_throttle import LogThrottle

log = logs.get(__name__)


class LimitHits:
    """One for each process. Names are those of the table in SECURITY.md, never anything that a client says."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said = LogThrottle(lambda limits: log.warning("limits hit", limits=limits))

    def hit(self, limit: str) -> None:
        """``limit`` was hit once more."""
        self.counts[limit] += 1
        self._said.note(limit)

    def stop(self) -> None:
        """Say what has not been said yet."""
        self._said.stop()
