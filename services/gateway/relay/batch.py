"""Batch candidates of one window that leave together into one message, one line each. No I/O."""

from services.gateway.relay.send_window import OutstandingRelay
from shared.contracts.client import Event
from shared.contracts.relays import LINE, TOGETHER_BYTES, TOGETHER_MAX
from shared.subjects import FOLLOWS, REDELIVER


class Batch:
    """A published message that relays may join which follow ``first`` without a gap.

    ``subject``, ``reply``, ``attempt``: those it was published with. ``message``: the bus's handle of it.
    """

    __slots__ = ("_attempt", "_begin", "_end", "_last", "_lines", "_size", "_subject", "message")

    def __init__(
        self, subject: str, reply: str, first: OutstandingRelay, attempt: int, message: bytes
    ) -> None:
        self._subject = subject
        self._begin, _, self._end = reply.rpartition("-")
        self._attempt = attempt
        self._last = first.number
        self._lines = [first.payload]
        self._size = len(first.payload)
        self.message = message

    @staticmethod
    def may_begin(relay: OutstandingRelay, flags: int) -> bool:
        """Return True if other relays may join a message with this one."""
        return (
            relay.event == Event.CANDIDATE
            and bool(relay.payload)
            and not relay.wants_receipt
            and not flags & REDELIVER
        )

    def joined(
        self, subject: str, relay: OutstandingRelay, attempt: int, flags: int
    ) -> tuple[bytes, str] | None:
        """Return payload and reply subject of the message with this relay in it; ``None`` if it may not join."""
        if (
            subject != self._subject
            or flags != FOLLOWS
            or attempt != self._attempt
            or relay.number != self._last + 1
            or not relay.payload
            or self._size + len(relay.payload) > TOGETHER_BYTES
            or len(self._lines) == TOGETHER_MAX
        ):
            return None
        return LINE.join((*self._lines, relay.payload)), f"{self._begin}+{len(self._lines)}-{self._end}"

    def join(self, relay: OutstandingRelay, message: bytes) -> None:
        """Record that a relay has joined. ``message``: the bus's new handle of the message."""
        self._lines.append(relay.payload)
        self._size += len(relay.payload)
        self._last = relay.number
        self.message = message
