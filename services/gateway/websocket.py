"""A websocket, and what waits to be written to it, as Engine.IO wants them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from services.gateway import packets
from services.gateway.packets import Malformed

LAST_WORDS_SECONDS = 2.0
"""How long a client that is to be closed has to read why."""
PACKETS_PER_POLL = 16


class Server(Protocol):
    """What a websocket needs of the transport."""

    websockets: "dict[str, WebSocket]"
    max_frame: int

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""


class WebSocket:
    """What Engine.IO talks to a websocket through. Without compression: it costs memory and CPU and saves little."""

    def __init__(self, handler: Callable[["WebSocket"], Awaitable[None]], transport: Server) -> None:
        self._handler = handler
        self._connection: Any = handler.__self__  # type: ignore[attr-defined]  # a method of the Engine.IO socket
        self._transport = transport
        self._ws = web.WebSocketResponse(
            compress=False, max_msg_size=transport.max_frame, timeout=LAST_WORDS_SECONDS
        )
        self._over = asyncio.Event()
        self._request: web.Request | None = None

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        eio_sid = self._connection.sid
        self._request = environ["aiohttp.request"]
        await self._ws.prepare(self._request)
        self._transport.websockets[eio_sid] = self
        try:
            await self._handler(self)
        finally:
            self._over.set()
            if not self._connection.upgraded:
                self._connection.upgrading = False  # an upgrade that came to nothing: polling goes on
            if self._transport.websockets.get(eio_sid) is self:
                del self._transport.websockets[eio_sid]
        return self._ws

    async def ended(self, timeout: float) -> bool:
        """Whether it is over within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._over.wait()
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        """End it now, unread data included."""
        if self._request is not None and self._request.transport is not None:
            self._request.transport.abort()

    async def wait(self) -> str:
        """The next frame that Engine.IO can take. Raises ``OSError`` when the websocket is over."""
        while not self._connection.closed:
            message = await self._ws.receive()
            if message.type is WSMsgType.TEXT:
                try:
                    packets.check_frame(message.data)
                except Malformed as error:
                    await self._transport.garbage(self._connection.sid, str(error))
                    continue
                return str(message.data)
            if message.type is not WSMsgType.BINARY:
                break
            await self._transport.garbage(self._connection.sid, packets.BINARY)
        raise OSError("closed")

    async def send(self, frame: str | bytes) -> None:
        """Write one frame."""
        assert isinstance(frame, str), "nothing here sends binary data"
        await self._ws.send_str(frame)

    async def close(self) -> None:
        """Close it."""
        await self._ws.close()


class Outgoing(asyncio.Queue[Any]):
    """What waits for a client, and how much it is.

    Engine.IO takes all of it at once; python-engineio's client reads 16 packets a poll and no more.
    """

    size = 0
    _taken = 0

    async def get(self) -> Any:
        self._taken = 0
        return await super().get()

    def get_nowait(self) -> Any:
        if self._taken == PACKETS_PER_POLL:
            raise asyncio.QueueEmpty
        item = super().get_nowait()
        self._taken += 1
        self.size -= _size(item)
        return item

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        self.size += _size(item)


def _size(item: Any) -> int:
    return len(item.data) if item is not None and isinstance(item.data, str) else 0
