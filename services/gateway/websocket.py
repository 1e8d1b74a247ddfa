"""A websocket, and what waits to be written to it, as Engine.IO wants them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from services.gateway import packets
from services.gateway.packets import Malformed
from services.gateway.short import PREFIX

LAST_WORDS_SECONDS = 2.0
"""How long a client that is to be closed has to read why."""
PACKETS_PER_POLL = 16
UNWRITTEN_BYTES = 32 * 1024
"""What may wait in a connection before the rest waits for its writer, and counts as not read by the client."""


class Server(Protocol):
    """What a websocket needs of the transport."""

    websockets: "dict[str, WebSocket]"
    max_frame: int

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """A frame that may be a relay; whether it is done with."""

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""


class WebSocket:
    """What Engine.IO talks to a websocket through. Without compression: it costs memory and CPU and saves little."""

    def __init__(self, handler: Callable[["WebSocket"], Awaitable[None]], transport: Server) -> None:
        self._handler = handler
        self._connection: Any = handler.__self__  # type: ignore[attr-defined]  # a method of the Engine.IO socket
        self._transport = transport
        self._ws = web.WebSocketResponse(
            compress=False, max_msg_size=transport.max_frame, timeout=LAST_WORDS_SECONDS, decode_text=False
        )
        self._over = asyncio.Event()
        self._frames: list[bytes] = []
        self._unwritten = 0
        self._request: web.Request | None = None

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        eio_sid = self._connection.sid
        self._request = environ["aiohttp.request"]
        await self._ws.prepare(self._request)
        self._connection.queue.websocket = self
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
        """The next frame that Engine.IO can take. Raises ``OSError`` when the websocket is over.

        Relays that take the short way do not get there: it has a task and a timer for each frame.
        """
        sid = self._connection.sid
        while not self._connection.closed:
            message = await self._ws.receive()
            if message.type is WSMsgType.TEXT:
                raw: bytes = message.data
                if raw.startswith(PREFIX) and self._transport.at_once(sid, raw):
                    continue
                try:
                    frame = raw.decode()
                except UnicodeDecodeError:
                    await self._ws.close(code=WSCloseCode.INVALID_TEXT)
                    break
                try:
                    packets.check_frame(frame)
                except Malformed as error:
                    await self._transport.garbage(sid, str(error))
                    continue
                return frame
            if message.type is not WSMsgType.BINARY:
                break
            await self._transport.garbage(sid, packets.BINARY)
        raise OSError("closed")

    def write(self, data: bytes) -> bool:
        """Write one frame at the end of this turn of the event loop; whether that was possible.

        If not, it is to wait for Engine.IO's writer.
        """
        if not self._frames:
            transport = self._request.transport if self._request is not None else None
            if (
                transport is None
                or transport.is_closing()
                or transport.get_write_buffer_size() > UNWRITTEN_BYTES
                or self._ws.closed
                or not self._connection.upgraded
                or self._connection.closed
            ):
                return False
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._unwritten > UNWRITTEN_BYTES:
            return False
        size = len(data)
        if size < 126:
            head = bytes((0x81, size))
        elif size < 65_536:
            head = b"\x81\x7e%b" % size.to_bytes(2)
        else:
            head = b"\x81\x7f%b" % size.to_bytes(8)
        self._frames += (head, data)
        self._unwritten += size
        return True

    def _flush(self) -> None:
        """Write the frames of this turn: together, because a system call costs more than all else about them."""
        frames, self._frames, self._unwritten = self._frames, [], 0
        if (
            frames
            and not self._ws.closed
            and self._request is not None
            and self._request.transport is not None
        ):
            self._request.transport.write(b"".join(frames))

    async def send(self, frame: str | bytes) -> None:
        """Write one frame."""
        assert isinstance(frame, str), "nothing here sends binary data"
        self._flush()
        await self._ws.send_str(frame)

    async def close(self) -> None:
        """Close it."""
        self._flush()
        await self._ws.close()


class Outgoing(asyncio.Queue[Any]):
    """What waits for a client, and how much it is.

    Messages for a websocket whose writer is idle are written past it: Engine.IO wakes a task and sets a timer for each
    that waits. Of what waits it takes all at once; but python-engineio's client reads 16 packets a poll and no more.
    """

    size = 0
    websocket: WebSocket | None = None
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

    def write(self, packet: bytes) -> bool:
        """Write a Socket.IO packet past the queue, if it does not overtake anything; whether that was possible."""
        # Nothing taken: the writer has written what it took before, and waits for more.
        return (
            self.websocket is not None
            and not self._taken
            and self.empty()
            and self.websocket.write(b"4" + packet)
        )

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        self.size += _size(item)


def _size(item: Any) -> int:
    return len(item.data) if item is not None and isinstance(item.data, str) else 0
