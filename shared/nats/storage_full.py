"""Track the JetStream streams that refuse writes because they are full."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from shared.observability import logs
from shared.observability.log_throttle import LogThrottle

log = logs.get(__name__)

REMEMBERED_SECONDS = 10.0
"""Seconds for which a stream counts as full after a refusal, if nothing is stored in it meanwhile."""
WANT_OF_ROOM = frozenset({10002, 10023, 10028, 10047, 10077, 10122})
"""Error codes of nats-server: the limits of an account, of the server's memory and disk, and of the stream."""


def for_want_of_room(error: Mapping[str, Any]) -> bool:
    """True if this error of the JetStream API says that there is no room."""
    return error.get("err_code") in WANT_OF_ROOM


class StorageFull:
    """Remembers which streams are full, logs it at most every ten seconds, and counts refusals.

    False as a boolean while no stream is known to be full, so that a write that is stored costs no more than that look.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._log_throttle = LogThrottle(lambda refused: log.warning("jetstream is full", refused=refused))
        self.refused: Counter[str] = Counter()
        """Refusals, by stream."""

    def __bool__(self) -> bool:
        return bool(self._until)

    def refuse(self, stream: str) -> None:
        """Note that ``stream`` has refused to store something for want of room."""
        self.refused[stream] += 1
        self._until[stream] = time.monotonic() + REMEMBERED_SECONDS
        self._log_throttle.note(stream)

    def note(self, stream: str, error: Mapping[str, Any]) -> bool:
        """Note an error of a write; True if it was for want of room."""
        if for_want_of_room(error):
            self.refuse(stream)
            return True
        return False

    def stored(self, stream: str) -> None:
        """Note that ``stream`` has room again."""
        if self._until.pop(stream, None) is not None:
            log.info("jetstream stores again", stream=stream)

    def streams(self) -> tuple[str, ...]:
        """Return the streams that are full, sorted."""
        now = time.monotonic()
        for stream in [stream for stream, until in self._until.items() if until < now]:
            del self._until[stream]
        return tuple(sorted(self._until))

    def reasons(self) -> list[str]:
        """Return a text for each full stream, for ``/readyz``."""
        return reasons(self.streams())

    def stop(self) -> None:
        """Log what has not been logged yet."""
        self._log_throttle.stop()


def reasons(streams: tuple[str, ...]) -> list[str]:
    """Return a text for each of these streams: it is full."""
    return [f"JetStream is full: {stream}" for stream in streams]
