"""Parse what NATS sends: nats-py's parser, with a fast path for messages that are complete.

nats-py takes a message out of its buffer by a regular expression and a copy of the rest, and hands it on through two
coroutines, after a task was woken to read it. That is most of what a relay costs a service, so messages are cut out
here, as they come from the network; everything else goes to nats-py one unit at a time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.protocol.parser import MAX_CONTROL_LINE_SIZE, Parser

from shared.observability import logs

if TYPE_CHECKING:
    from nats.aio.client import Client

DirectHandler = Callable[[str, str, bytes, bytes], None]
"""``(subject, reply subject, payload, NATS headers as they came)``"""

log = logs.get(__name__)

_END = b"\r\n"


class FastParser(Parser):
    """Calls the handlers in ``direct`` (by subscription id) itself, and leaves all other messages to nats-py."""

    def __init__(self, client: "Client") -> None:
        super().__init__(client)
        self.direct: dict[bytes, DirectHandler] = {}
        self._rest = b""

    def reset(self) -> None:
        """Drop the bytes of a connection that is gone."""
        super().reset()
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """Handle the messages in ``data``. Returns the rest, from the first unit on that is for nats-py.

        Called ahead of nats-py's reader (:func:`shared.asyncio_compat.read_ahead`).
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, after = self._direct(data, 0)
        if after:
            return data[at:]
        self._rest = data[at:]
        return b""

    async def parse(self, data: bytes = b"") -> None:
        """Parse ``data`` behind the incomplete bytes before it. Raises nats-py's errors."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, after = self._direct(data, 0)
        while after:
            await super().parse(data[at:after])
            at, after = self._direct(data, after)
        self._rest = data[at:]

    def _direct(self, data: bytes, at: int) -> tuple[int, int]:
        """Handle messages from ``at`` on. Returns where they end, and where nats-py's unit there ends (0 for none)."""
        end, direct, stats = len(data), self.direct, self.nc.stats
        while at < end:
            line_end = data.find(_END, at)
            if line_end < 0:
                return at, end if end - at > MAX_CONTROL_LINE_SIZE else 0  # which it refuses
            words = data[at:line_end].split()
            after = line_end + 2
            kind = words[0] if words else b""
            if kind == b"MSG":
                head_words = 0
            elif kind == b"HMSG":
                head_words = 1
            else:
                return at, after
            try:
                payload_end = after + int(words[-1])
            except ValueError:
                return at, end  # which it refuses
            if payload_end + 2 > end:
                break
            count = len(words) - head_words
            handler = direct.get(words[2]) if count > 3 else None
            if handler is None:
                return at, payload_end + 2
            reply = words[3].decode() if count == 5 else ""
            body = after + int(words[-2]) if head_words else after
            stats["in_msgs"] += 1
            stats["in_bytes"] += payload_end - after
            try:
                handler(words[1].decode(), reply, data[body:payload_end], data[after:body])
            except Exception:
                log.exception("message not handled", subject=words[1].decode(errors="replace"))
            at = payload_end + 2
        return at, 0
