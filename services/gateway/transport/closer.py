"""Ending connections: at once, or once their clients could read why."""

import asyncio
from collections.abc import Awaitable, Callable

from services.gateway.compat.engineio_compat import Connection, Server
from services.gateway.websocket.connection import CLOSE_SECONDS, WebSocket
from services.gateway.websocket.send_queue import SendQueue


class Closer:
    """Closes connections of Engine.IO (``eio``). ``owes``: whether an answer to a client is still to come."""

    def __init__(
        self, eio: Server, websockets: dict[str, WebSocket], owes: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._eio = eio
        self._websockets = websockets
        self._owes = owes
        self._closing: set[asyncio.Task[None]] = set()
        self.doomed: set[str] = set()
        """Connections of which nothing more is heard."""

    def soon(self, eio_sid: str) -> None:
        """Hear nothing more from a connection, and close it once its client could read what was sent to it.

        What the client had sent before is answered first.
        """
        if eio_sid not in self.doomed:
            self.doomed.add(eio_sid)
            task = asyncio.create_task(self._close_when_read(eio_sid))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def drop(self, eio_sid: str) -> None:
        """Hear nothing more from a connection, and close it without waiting for its client."""
        if eio_sid not in self.doomed and eio_sid in self._eio.sockets:
            self.doomed.add(eio_sid)
            task = asyncio.create_task(self.now(eio_sid))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def break_off(self, eio_sid: str) -> None:
        """End a connection at once, without a word, and let go of what waits for its client, who may resume."""
        connection = self._eio.sockets.get(eio_sid)
        if connection is None:
            return
        queue: SendQueue = connection.queue
        holder = queue.buffered_by
        queue.discard()
        queue.truncate()  # what comes until it is over does not wait
        if holder is not None:
            holder.abort()
        if (websocket := self._websockets.get(eio_sid)) is not None:
            websocket.abort()
        if not connection.upgraded:
            task = asyncio.create_task(self._end(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _end(self, connection: Connection) -> None:
        """End a connection of a client that polls."""
        await connection.close(wait=False, abort=True, reason=self._eio.reason.TRANSPORT_ERROR)
        if self._eio.sockets.get(connection.sid) is connection:
            del self._eio.sockets[connection.sid]

    async def _close_when_read(self, eio_sid: str) -> None:
        connection = self._eio.sockets.get(eio_sid)
        loop = asyncio.get_running_loop()
        until = loop.time() + CLOSE_SECONDS
        while connection is not None and not connection.closed and loop.time() < until:
            await asyncio.sleep(0.05)
            owes = await self._owes(eio_sid)
            if connection.queue.empty() and connection.upgraded and not owes:
                break
        await self.now(eio_sid)

    async def now(self, eio_sid: str) -> None:
        """Close a connection, whether its client reads or not."""
        connection = self._eio.sockets.pop(eio_sid, None)
        if connection is None:
            return
        websocket = self._websockets.get(eio_sid)
        # Engine.IO's own way waits, without a limit, until the client has read everything.
        await connection.close(wait=False, reason=self._eio.reason.SERVER_DISCONNECT)
        connection.queue.put_nowait(None)  # ends its writer, which closes the websocket
        if websocket is not None and not await websocket.wait_closed(CLOSE_SECONDS):
            websocket.abort()

    async def all(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(self.now(eio_sid) for eio_sid in list(self._eio.sockets)))
