"""One connected client, as the rest of the gateway sees it: send to it, close it, and nothing about transports."""

import asyncio
import json
from typing import Any

from engineio.async_socket import AsyncSocket
from engineio.packet import CLOSE, MESSAGE, Packet

from services.gateway.limits import Strikes
from shared import logs

log = logs.get(__name__)

BACKLOG_PACKETS = 10_000
BACKLOG_CHARS = 4 * 1024 * 1024
"""What may wait for a client that does not read, counted since nothing waited; past it the client is cut off."""
LINGER_SECONDS = 2.0
"""How long a client that is being disconnected has to fetch its last messages."""


class Link:
    """An Engine.IO connection and the Socket.IO socket on it. ``sid``: the socket's id, empty until connected."""

    def __init__(self, socket: AsyncSocket, strikes: Strikes) -> None:
        self.socket = socket
        self.strikes = strikes
        self.sid = ""
        self.closing = False
        self.lock = asyncio.Lock()
        """Held while an event is handled: one after the other, also where polling and websocket overlap."""
        self.abort = lambda: None
        """Cuts the websocket off; set while there is one."""
        self._backlog = 0
        self._closer: asyncio.Task[None] | None = None

    def send_event(self, event: str, payload: str) -> None:
        """Send ``payload``, which is JSON already. Nothing happens on a closed link."""
        self._send(f'2["{event}",{payload}]')

    def send_ack(self, ack: str | None, body: dict[str, Any]) -> None:
        """Answer an acknowledgement; nothing happens if none was asked for."""
        if ack is not None:
            self._send(f"3{ack}[{json.dumps(body, separators=(',', ':'))}]")

    def close(self) -> None:
        """Disconnect: what has been sent goes out first, for :data:`LINGER_SECONDS` at most. Safe to call twice."""
        if not self.closing:
            self.closing = True
            self._closer = asyncio.create_task(self._close(), name="close link")

    async def closed(self) -> None:
        """Wait until :meth:`close` is done."""
        if self._closer is not None:
            await asyncio.wait({self._closer})

    def _send(self, text: str) -> None:
        if self.socket.closed or self.socket.closing:
            return
        queue = self.socket.queue
        if queue.empty():
            self._backlog = 0
        self._backlog += len(text)
        if self._backlog > BACKLOG_CHARS or queue.qsize() >= BACKLOG_PACKETS:
            if not self.closing:
                log.warning("client does not read", socket=self.sid, packets=queue.qsize())
                self.close()
                self.abort()
            return
        queue.put_nowait(Packet(MESSAGE, text))

    async def _close(self) -> None:
        if self.sid:
            self._send("1")
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self.socket.queue.join()
        except TimeoutError:
            pass
        # wait=True would wait for a client that does not read for ever.
        await self.socket.close(wait=False, abort=True, reason=self.socket.server.reason.SERVER_DISCONNECT)
        self.socket.queue.put_nowait(Packet(CLOSE))
        self.socket.queue.put_nowait(None)
