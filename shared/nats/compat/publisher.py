"""Publish in batches, past nats-py's own publish."""

import asyncio

from shared.errors import NotSent, Unavailable
from shared.nats.compat.client import SupervisedClient

UNSENT_BYTES = 32 * 1024 * 1024
"""Bytes that may wait for NATS to take them before nothing more is published."""
FLUSH_AGAIN_SECONDS = 0.01
TICKS_MAX = 4
"""Event-loop ticks for which publishes are gathered, as long as each tick brings more of them."""


class Publisher:
    """Publishes on one connection: those of a few event-loop ticks leave in one system call.

    A base class of :class:`shared.nats.connection.Bus`, because a call between two objects would be paid by each relay.
    """

    def __init__(self, client: SupervisedClient) -> None:
        self.client = client
        self._hangs = False
        self._loop = asyncio.get_running_loop()
        self._flushing = False

    @property
    def unsent(self) -> int:
        """Return the bytes that NATS has not taken yet."""
        return self.client.pending_data_size + self.client.write_buffer_size()

    def publish(self, subject: str, payload: bytes = b"", reply: str = "", head: bytes = b"") -> bytes:
        """Send a message within a few event-loop ticks, together with those published in these ticks.

        ``subject`` and ``reply`` are not encoded: they come from :mod:`shared.subjects`. ``head``: NATS headers as
        :func:`shared.nats.pending_requests.head_of` writes them. Returns the bytes sent, for :meth:`amend`. Raises
        :class:`Unavailable` while NATS is away, if NATS takes nothing, and if the message is too large.
        """
        # nats-py's own publish costs more: a coroutine, a future and a task woken for each message.
        client = self.client
        size = len(payload)
        if self._hangs or not client.is_connected:
            raise NotSent
        if size > client.max_payload:
            raise Unavailable(f"a message of {size} bytes is more than NATS takes")
        if client._pending_data_size > UNSENT_BYTES:
            raise Unavailable("NATS does not take what is sent")
        if head:
            line = f"HPUB {subject} {reply} {len(head)} {len(head) + size}\r\n"
            message = b"%b%b%b\r\n" % (line.encode(), head, payload)
        else:
            message = b"%b%b\r\n" % (f"PUB {subject} {reply} {size}\r\n".encode(), payload)
        client._pending.append(message)
        client._pending_data_size += size
        client.stats["out_msgs"] += 1
        client.stats["out_bytes"] += size
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush, len(client._pending), 1)
        return message

    def amend(self, sent: bytes, subject: str, payload: bytes, reply: str = "") -> bytes | None:
        """Send this message instead of ``sent``, which :meth:`publish` or :meth:`amend` returned.

        Returns the bytes sent, for the next :meth:`amend`; ``None`` if ``sent`` was not the last message or has left.
        """
        client = self.client
        if not client._pending or client._pending[-1] is not sent:
            return None
        message = b"%b%b\r\n" % (f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload)
        more = len(message) - len(sent)
        client._pending[-1] = message
        client._pending_data_size += more
        client.stats["out_bytes"] += more
        return message

    def _flush(self, seen: int = 0, tick: int = TICKS_MAX) -> None:
        client = self.client
        if len(client._pending) > seen and tick < TICKS_MAX:
            self._loop.call_soon(self._flush, len(client._pending), tick + 1)
            return
        self._flushing = False
        if not client.is_connected or not client._pending:
            return
        writer = client._transport._io_writer  # type: ignore[union-attr]  # connected, and by TCP
        if writer.transport.is_closing():
            return  # nats-py is about to notice, and then what waits is dropped
        if writer.transport.get_write_buffer_size() > UNSENT_BYTES // 2:
            self._flushing = True
            self._loop.call_later(FLUSH_AGAIN_SECONDS, self._flush)
            return
        batch, client._pending, client._pending_data_size = client._pending, [], 0
        writer.write(b"".join(batch))
