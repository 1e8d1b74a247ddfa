"""Track reports that relays may be lost, and when each callcore acknowledged last.

Pure: no I/O and no clock; time arrives as ``now`` (seconds, monotonic).
"""

from collections.abc import Iterable

from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import AGAIN_SECONDS, SendWindow

_INSTANCES_MAX = 256
"""Callcores whose last acknowledgement is remembered."""


class LossDetector:
    """Decides which windows are to be retransmitted because relays of them may be lost.

    Reports that come within :data:`AGAIN_SECONDS` of a retransmission wait until that has passed, and count once.
    """

    def __init__(self, send_buffer: SendBuffer) -> None:
        self._send_buffer = send_buffer
        self._all = False
        self._sessions: set[str] = set()
        self._not_before = 0.0
        self._acknowledged_at: dict[str, float] = {}

    def connection_lost(self) -> None:
        """Suspect all relays at once: this gateway was cut off from NATS."""
        self._all, self._not_before = True, 0.0

    def all_suspected(self) -> None:
        """Suspect all relays: another service was cut off from NATS."""
        self._all = True

    def sessions_suspected(self, sessions: Iterable[str]) -> None:
        """Suspect the relays of these sessions, as far as they are kept here."""
        self._sessions.update(session for session in sessions if self._send_buffer.of(session))

    def windows_due(self, now: float) -> list[SendWindow]:
        """Return the windows to be retransmitted now; their reports are settled by that."""
        if not (self._all or self._sessions) or now < self._not_before:
            return []
        if self._all:
            windows = list(self._send_buffer)
        else:
            windows = [window for session in self._sessions for window in self._send_buffer.of(session)]
        self._all, self._not_before = False, now + AGAIN_SECONDS
        self._sessions.clear()
        return windows

    def acknowledged(self, callcore: str, now: float) -> None:
        """Record that a callcore has acknowledged relays, or reported a gap."""
        self._acknowledged_at.pop(callcore, None)
        self._acknowledged_at[callcore] = now
        if len(self._acknowledged_at) > _INSTANCES_MAX:
            del self._acknowledged_at[next(iter(self._acknowledged_at))]

    def acknowledged_since(self, callcore: str, since: float) -> bool:
        """Return True if a callcore has acknowledged relays, or reported a gap, at ``since`` or later."""
        return self._acknowledged_at.get(callcore, 0.0) >= since
