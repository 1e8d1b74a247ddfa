"""Candidates of one session that leave together: one message instead of many, a line for each."""

from services.gateway.outbox import Sent
from shared.bus import Bus
from shared.contracts.relays import LINE, TOGETHER_BYTES, TOGETHER_MAX
from shared.subjects import FOLLOWS


class Bundle:
    """A message that has been published; ``message``: what :meth:`shared.bus.Bus.publish` returned.

    The relay ``first`` was sent in it, with these ``marks``. Others may join it: those that follow without a gap.
    """

    __slots__ = ("_last", "_lines", "_marks", "_message", "_reply", "_size", "_subject")

    def __init__(self, message: bytes, subject: str, reply: str, first: Sent, marks: str) -> None:
        self._message = message
        self._subject = subject
        self._reply = reply
        self._marks = f"{marks[0]}{FOLLOWS}"
        self._last = first.number
        self._lines = [first.payload]
        self._size = len(first.payload)

    def amend(self, bus: Bus, subject: str, sent: Sent, marks: str) -> bool:
        """Have a relay leave in this message, too; whether that is possible."""
        size = self._size + len(sent.payload)
        if (
            subject != self._subject
            or marks != self._marks
            or sent.number != self._last + 1
            or not sent.payload
            or size > TOGETHER_BYTES
            or len(self._lines) == TOGETHER_MAX
        ):
            return False
        begin, _, its_marks = self._reply.rpartition("-")
        lines = [*self._lines, sent.payload]
        reply = f"{begin}+{len(self._lines)}-{its_marks}"
        message = bus.amend(self._message, subject, LINE.join(lines), reply)
        if message is None:
            return False
        self._message, self._lines, self._size, self._last = message, lines, size, sent.number
        return True
