"""Supervise nats-py's client: open its connection again when one of its tasks ends."""

import asyncio
from collections import Counter
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.protocol.parser import PERMISSIONS_ERR

from shared import asyncio_compat
from shared.nats.fast_parser import FastParser
from shared.observability import logs

log = logs.get(__name__)

TASKS: Final = {"reader": "_reading_task", "flusher": "_flusher_task", "pings": "_ping_interval_task"}
"""Task of a connection → the attribute of nats-py's client that has it."""
RECONNECT: Final = "reconnect"
"""The task that opens the connection again."""
_PING, _PONG = b"PING\r\n", b"PONG\r\n"
_PAUSE_SECONDS = 0.25
FLUSH_SECONDS = 10


class ConnectionFailed(Error):
    """A task of the client has ended, so the connection is opened again."""


class SupervisedClient(Client):
    """Opens its connection again when one of its tasks has ended. ``parser``: reads what NATS sends."""

    def __init__(self) -> None:
        super().__init__()
        self.parser = self._ps = FastParser(self)
        self.broken: Counter[str] = Counter()
        """Task (the keys of :data:`TASKS`, and :data:`RECONNECT`) → how often it ended unexpectedly."""
        self._reopening: asyncio.Task[None] | None = None

    def read_ahead(self) -> None:
        """Handle messages as they come from the network; call it for each new connection."""
        stream = getattr(self._transport, "_io_reader", None)  # of TCP, with TLS or without
        if stream is not None:
            asyncio_compat.read_ahead(stream, self.parser.take)

    def write_buffer_size(self) -> int:
        """Return the bytes that asyncio has still to write to the socket."""
        if not self.is_connected:
            return 0
        writer = self._transport._io_writer  # type: ignore[union-attr]  # connected, and by TCP
        size: int = writer.transport.get_write_buffer_size()
        return size

    def unhandled(self) -> tuple[int, int]:
        """Return the number of messages that wait for their handlers, and their bytes."""
        subscriptions = self._subs.values()
        return sum(s.pending_msgs for s in subscriptions), sum(s.pending_bytes for s in subscriptions)

    def drop_pending(self) -> None:
        """Drop what is not sent: nats-py would send it after the reconnect, when it may be stale."""
        self._pending, self._pending_data_size = [], 0

    async def ping(self) -> "asyncio.Future[bool]":
        """Ping NATS. Returns a future that is done when NATS has answered."""
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        return pong

    async def _process_connect_init(self) -> None:
        # After a failed try nats-py leaves the tasks of that try running, and they read from the next connection.
        for attribute in TASKS.values():
            if (task := getattr(self, attribute)) is not None:
                task.cancel()
        await super()._process_connect_init()
        for name, attribute in TASKS.items():
            getattr(self, attribute).add_done_callback(lambda task, name=name: self._ended(name, task))

    async def _connect_to_server(self, s: Any) -> None:
        self._abort()  # of a try that failed; nats-py forgets it unclosed
        await super()._connect_to_server(s)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self.is_connected or task is not getattr(self, TASKS[name]):
            return
        self.broken[name] += 1
        reason = "ended" if error is None else repr(error)
        log.error("nats client task failed, connecting again", task=name, reason=reason)
        self._reopening = asyncio.get_running_loop().create_task(
            self._process_op_err(ConnectionFailed(f"{name}: {reason}")), name="reopen nats"
        )

    async def _attempt_reconnect(self) -> None:
        self._abort()
        while True:
            try:
                await super()._attempt_reconnect()
            except Exception as error:  # noqa: BLE001 - else nothing would try again
                self.broken[RECONNECT] += 1
                log.error("nats client task failed, trying again", task=RECONNECT, reason=repr(error))
                await asyncio.sleep(_PAUSE_SECONDS)
                if self.is_closed:
                    return
                self._status = Client.RECONNECTING
                self._abort()
                continue
            return

    def _abort(self) -> None:
        """Close the connection without waiting for a server that hangs to take what is unsent."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _process_err(self, err_msg: str) -> None:
        if self.is_connected and PERMISSIONS_ERR not in err_msg:
            error = Error(f"nats: {err_msg.strip(chr(39))}")
            await self._error_cb(error)
            await self._process_op_err(error)
        else:
            await super()._process_err(err_msg)

    async def _process_ping(self) -> None:
        self._write_now(_PONG)

    async def _process_pong(self) -> None:
        if not self._pongs:
            return
        self._pongs_received += 1
        self._pings_outstanding = 0
        waiter = self._pongs.pop(0)
        if not waiter.done():  # else it has given up
            waiter.set_result(True)

    async def _send_ping(self, future: "asyncio.Future[Any] | None" = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._write_now(_PING)

    async def flush(self, timeout: int = FLUSH_SECONDS) -> None:
        """Wait until the server has read all that was sent.

        nats-py's own ping overtakes what is in its buffer. Raises ``nats.errors.Error``.
        """
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    def _write_now(self, command: bytes) -> None:
        """Write past the flusher, whose queue may be full while the server reads nothing."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None and not writer.transport.is_closing():  # uvloop raises where asyncio only warns
            writer.write(command)


def subscription_id(subscription: Subscription) -> bytes:
    """Return the id of a subscription as it is in the messages that NATS sends for it."""
    return b"%d" % subscription._id


async def drain(subscription: Subscription) -> None:
    """End a subscription: let no more messages come, and wait until the handler has had those that came.

    nats-py's own drain can lose some: its ping overtakes its unsubscribe, and it no longer knows the subscription
    when the last messages arrive. So the unsubscribe goes out here first. Raises :class:`nats.errors.Error`.
    """
    client = subscription._conn
    try:
        await client._send_unsubscribe(subscription._id)
        await client._flush_pending(force_flush=True)
        await subscription.drain()  # type: ignore[no-untyped-call]
    finally:
        if isinstance(client, SupervisedClient):
            client.parser.direct.pop(subscription_id(subscription), None)
