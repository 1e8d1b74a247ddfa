"""Reading what NATS sends: nats-py's parser, with a short way for messages that are there whole.

nats-py takes a message out of its buffer by a regular expression and a copy of the rest, and hands it on through two
coroutines. That is most of what a relay costs a service, so messages are cut out here; everything else goes to
nats-py one unit at a time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.protocol.parser import MAX_CONTROL_LINE_SIZE, Parser

from shared import logs

if TYPE_CHECKING:
    from nats.aio.client import Client

DirectHandler = Callable[[str, str, bytes, bytes], None]
"""``(subject, reply subject, payload, NATS headers as they came)``"""

log = logs.get(__name__)

_END = b"\r\n"


class Reader(Parser):
    """``direct``: handlers of messages, by subscription; all other messages take nats-py's way."""

    def __init__(self, client: "Client") -> None:
        super().__init__(client)
        self.direct: dict[bytes, DirectHandler] = {}
        self._rest = b""

    def reset(self) -> None:
        """Forget what was read of a connection that is gone."""
        super().reset()
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        """Take what has been read, and whatever was not whole before it. Raises nats-py's errors."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        while at < end:
            line_end = data.find(_END, at)
            if line_end < 0:
                if end - at > MAX_CONTROL_LINE_SIZE:
                    await super().parse(data[at:])  # which refuses it
                    return
                break
            words = data[at:line_end].split()
            after = line_end + 2
            if words and words[0] in (b"MSG", b"HMSG"):
                try:
                    payload_end = after + int(words[-1])
                except ValueError:
                    await super().parse(data[at:])  # which refuses it
                    return
                if payload_end + 2 > end:
                    break
                with_head = words[0] == b"HMSG"
                handler = self.direct.get(words[2]) if len(words) > 3 + with_head else None
                if handler is not None:
                    reply = words[3].decode() if len(words) == 5 + with_head else ""
                    body = after + int(words[-2]) if with_head else after
                    self.nc.stats["in_msgs"] += 1
                    self.nc.stats["in_bytes"] += payload_end - after
                    try:
                        handler(words[1].decode(), reply, data[body:payload_end], data[after:body])
                    except Exception:
                        log.exception("message not handled", subject=words[1].decode(errors="replace"))
                    at = payload_end + 2
                    continue
                after = payload_end + 2
            await super().parse(data[at:after])
            at = after
        self._rest = data[at:]
