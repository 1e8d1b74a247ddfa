"""Count and log the limits that clients hit."""

from collections import Counter

from shared.observability import logs
from shared.observability.log_throttle import LogThrottle

log = logs.get(__name__)


class LimitHits:
    """Counts hits of limits by name, one object a process. Names are those of the table in SECURITY.md."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said = LogThrottle(lambda limits: log.warning("limits hit", limits=limits))

    def hit(self, limit: str) -> None:
        """Count one hit of ``limit``."""
        self.counts[limit] += 1
        self._said.note(limit)

    def stop(self) -> None:
        """Log the hits that are not logged yet."""
        self._said.stop()
