"""A websocket, and what waits to be written to it, as Engine.IO wants them."""

import asyncio
from collections import deque
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
        self._over = False
        self._ended: asyncio.Event | None = None
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
            self._over = True
            if self._ended is not None:
                self._ended.set()
            if not self._connection.upgraded:
                self._connection.upgrading = False  # an upgrade that came to nothing: polling goes on
            if self._transport.websockets.get(eio_sid) is self:
                del self._transport.websockets[eio_sid]
        return self._ws

    async def ended(self, timeout: float) -> bool:
        """Whether it is over within ``timeout`` seconds."""
        if not self._over:
            self._ended = asyncio.Event()
            try:
                async with asyncio.timeout(timeout):
                    await self._ended.wait()
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


class Outgoing:
    """What waits for a client, and how much it is: as much of an ``asyncio.Queue`` as Engine.IO uses.

    Messages for a websocket whose writer is idle are written past it: Engine.IO wakes a task and sets a timer for each
    that waits. Of what waits it takes all at once; but python-engineio's client reads 16 packets a poll and no more.
    An ``asyncio.Queue`` would have four deques, 3 KiB for each idle client.
    """

    __slots__ = ("_getter", "_items", "_joined", "_taken", "_unfinished", "size", "websocket")

    def __init__(self) -> None:
        self.size = 0
        """Bytes."""
        self.websocket: WebSocket | None = None
        self._items: deque[Any] | None = None
        self._taken = 0
        self._unfinished = 0
        self._getter: asyncio.Future[None] | None = None
        self._joined: asyncio.Event | None = None

    def write(self, packet: bytes) -> bool:
        """Write a Socket.IO packet past the queue, if it does not overtake anything; whether that was possible."""
        # Nothing taken: the writer has written what it took before, and waits for more.
        return (
            self.websocket is not None
            and not self._taken
            and not self._items
            and self.websocket.write(b"4" + packet)
        )

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._items

    async def put(self, item: Any) -> None:
        """Add a packet, or ``None`` for the end."""
        self.put_nowait(item)

    def put_nowait(self, item: Any) -> None:
        """Add a packet, or ``None`` for the end."""
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        self._unfinished += 1
        self.size += _size(item)
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)

    async def get(self) -> Any:
        """Wait for the first packet of a batch. One at a time may wait."""
        self._taken = 0
        while not self._items:
            self._getter = asyncio.get_running_loop().create_future()
            try:
                await self._getter
            finally:
                self._getter = None
        return self.get_nowait()

    def get_nowait(self) -> Any:
        """The next packet of the batch. Raises ``asyncio.QueueEmpty`` at its end."""
        if self._items is None or self._taken == PACKETS_PER_POLL:
            raise asyncio.QueueEmpty
        item = self._items.popleft()
        if not self._items:
            self._items = None
        self._taken += 1
        self.size -= _size(item)
        return item

    def task_done(self) -> None:
        """A packet that was taken is done with."""
        self._unfinished -= 1
        if not self._unfinished and self._joined is not None:
            self._joined.set()

    async def join(self) -> None:
        """Wait until all packets are done with."""
        if self._unfinished:
            if self._joined is None:
                self._joined = asyncio.Event()
            self._joined.clear()
            await self._joined.wait()


def _size(item: Any) -> int:
    return len(item.data) if item is not None and isinstance(item.data, str) else 0
