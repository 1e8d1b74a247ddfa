"""Close Engine.IO connections: at once, or once their clients could read why."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from services.gateway.compat.engineio_compat import Connection, Server
from services.gateway.websocket.connection import CLOSE_SECONDS, WebSocket
from services.gateway.websocket.send_queue import SendQueue

_CHECK_SECONDS = 0.05


class Closer:
    """Close connections of an Engine.IO server. ``reply_pending``: True if a reply to a client is still to be sent."""

    def __init__(
        self,
        eio: Server,
        websockets: dict[str, WebSocket],
        reply_pending: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._eio = eio
        self._websockets = websockets
        self._reply_pending = reply_pending
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing: set[str] = set()
        """Connections whose frames are ignored from now on."""

    def close_soon(self, eio_sid: str) -> None:
        """Ignore what a client sends from now on, and close its connection once it could read what was sent to it.

        Replies to its earlier frames are sent first. It takes :data:`CLOSE_SECONDS` at most.
        """
        if eio_sid not in self.closing:
            self.closing.add(eio_sid)
            self._start(self._close_when_read(eio_sid))

    def drop(self, eio_sid: str) -> None:
        """Ignore what a client sends from now on, and close its connection without waiting until it has read."""
        if eio_sid not in self.closing and eio_sid in self._eio.sockets:
            self.closing.add(eio_sid)
            self._start(self.close(eio_sid))

    def abort(self, eio_sid: str) -> None:
        """End a connection at once, without a message, and drop what waits for its client, which may resume."""
        connection = self._eio.sockets.get(eio_sid)
        if connection is None:
            return
        queue: SendQueue = connection.queue
        buffered_by = queue.buffered_by
        queue.discard()
        queue.truncate()  # packets that are added until the connection has ended do not wait
        if buffered_by is not None:
            buffered_by.abort()
        if (websocket := self._websockets.get(eio_sid)) is not None:
            websocket.abort()
        if not connection.upgraded:
            self._start(self._end_polling(connection))

    async def close(self, eio_sid: str) -> None:
        """Close a connection, even if its client does not read. Takes :data:`CLOSE_SECONDS` at most."""
        connection = self._eio.sockets.pop(eio_sid, None)
        if connection is None:
            return
        websocket = self._websockets.get(eio_sid)
        # Engine.IO's own way waits, without a limit, until the client has read everything.
        await connection.close(wait=False, reason=self._eio.reason.SERVER_DISCONNECT)
        connection.queue.put_nowait(None)  # the end, at which the websocket sends its close frame
        if websocket is not None and not await websocket.wait_closed(CLOSE_SECONDS):
            websocket.abort()

    async def close_all(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(self.close(eio_sid) for eio_sid in list(self._eio.sockets)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_polling(self, connection: Connection) -> None:
        """End the connection of a client that polls."""
        await connection.close(wait=False, abort=True, reason=self._eio.reason.TRANSPORT_ERROR)
        if self._eio.sockets.get(connection.sid) is connection:
            del self._eio.sockets[connection.sid]

    async def _close_when_read(self, eio_sid: str) -> None:
        connection = self._eio.sockets.get(eio_sid)
        loop = asyncio.get_running_loop()
        until = loop.time() + CLOSE_SECONDS
        while connection is not None and not connection.closed and loop.time() < until:
            await asyncio.sleep(_CHECK_SECONDS)
            pending = await self._reply_pending(eio_sid)
            if connection.queue.empty() and connection.upgraded and not pending:
                break
        await self.close(eio_sid)
