"""Candidates of one session that leave together: one message instead of many, a line for each. No I/O."""

from services.gateway.relay.send_window import OutstandingRelay
from shared.contracts.client import Event
from shared.contracts.relays import LINE, TOGETHER_BYTES, TOGETHER_MAX
from shared.subjects import AGAIN, FOLLOWS


class Batch:
    """A message that has been published, and what may be added to it: the relays that follow ``first`` without a gap.

    ``subject``, ``reply``, ``marks``: those it was published with. ``message``: what the bus calls it.
    """

    __slots__ = ("_begin", "_end", "_last", "_lines", "_marks", "_size", "_subject", "message")

    def __init__(self, subject: str, reply: str, first: OutstandingRelay, marks: str, message: bytes) -> None:
        self._subject = subject
        self._begin, _, self._end = reply.rpartition("-")
        self._marks = f"{marks[0]}{FOLLOWS}"
        self._last = first.number
        self._lines = [first.payload]
        self._size = len(first.payload)
        self.message = message

    @staticmethod
    def may_begin(sent: OutstandingRelay, marks: str) -> bool:
        """Whether others may join this one."""
        return sent.event == Event.CANDIDATE and bool(sent.payload) and not sent.wanted and AGAIN not in marks

    def joined(self, subject: str, sent: OutstandingRelay, marks: str) -> tuple[bytes, str] | None:
        """Payload and reply subject of the message once this one has joined; ``None`` for one that may not."""
        if (
            subject != self._subject
            or marks != self._marks
            or sent.number != self._last + 1
            or not sent.payload
            or self._size + len(sent.payload) > TOGETHER_BYTES
            or len(self._lines) == TOGETHER_MAX
        ):
            return None
        return LINE.join((*self._lines, sent.payload)), f"{self._begin}+{len(self._lines)}-{self._end}"

    def join(self, sent: OutstandingRelay, message: bytes) -> None:
        """It has joined, and the bus has a new name for the message."""
        self._lines.append(sent.payload)
        self._size += len(sent.payload)
        self._last = sent.number
        self.message = message
