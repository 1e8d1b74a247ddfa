"""nats-py's client, its tasks supervised: none of them may end while the connection is taken to be there.

Private parts of nats-py that are used here: its status, its three tasks of a connection and the one that reconnects,
the futures of its pings, and its transport.
"""

import asyncio
from collections import Counter
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error
from nats.protocol.parser import PERMISSIONS_ERR

from shared.observability import logs

log = logs.get(__name__)

TASKS: Final = {"reader": "_reading_task", "flusher": "_flusher_task", "pings": "_ping_interval_task"}
"""The tasks of a connection, and the attributes of nats-py's client that hold them."""
RECONNECT: Final = "reconnect"
"""The task that opens the connection again."""
_PING, _PONG = b"PING\r\n", b"PONG\r\n"
_PAUSE_SECONDS = 0.25
FLUSH_SECONDS = 10


class ConnectionFailed(Error):
    """A task of the client has ended, so the connection is opened again."""


class SupervisedClient(Client):
    """A client that opens its connection again, whatever ended one of its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: Counter[str] = Counter()
        """How often each task ended though it should not have: the keys of :data:`TASKS`, :data:`RECONNECT`."""
        self._reopening: asyncio.Task[None] | None = None

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
            except Exception as error:  # noqa: BLE001 - else nobody would try again
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
        """Wait until the server has seen all that was sent; nats-py's own ping overtakes what is in its buffer."""
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    def _write_now(self, command: bytes) -> None:
        """Write past the flusher, whose queue may be full while the server takes nothing."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None and not writer.transport.is_closing():  # uvloop raises where asyncio only warns
            writer.write(command)
