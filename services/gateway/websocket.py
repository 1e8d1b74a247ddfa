"""A websocket, in the place of Engine.IO's own loops.

Those have a task and a timer for each frame that is read, and for each that is written. Here a frame is read and
handled by the task of its connection, what can be written is written at once, and one timer a connection asks whether
the client is still there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web
from engineio.packet import NOOP, PING, Packet

from services.gateway import packets
from services.gateway.outgoing import Outgoing
from services.gateway.packets import Malformed
from services.gateway.short import PREFIX

LAST_WORDS_SECONDS = 2.0
"""How long a client that is to be closed has to read why."""
UPGRADE_SECONDS = 10.0
"""How long an upgrade from polling may take."""
CHATTER_MAX, CHATTER_SECONDS = 100, 10.0
"""How many pings, pongs and the like a client may send in how long: each costs, and none means anything."""
UNWRITTEN_BYTES = 32 * 1024
"""What may wait in a connection before the rest waits for it, and counts as not read by the client."""


class Server(Protocol):
    """What a websocket needs of the transport."""

    websockets: "dict[str, WebSocket]"
    max_frame: int

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """A frame that may be a relay; whether it is done with."""

    async def message(self, eio_sid: str, packet: str) -> None:
        """A Socket.IO packet; the next one waits until this returns. Raises nothing."""

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""

    def too_large(self) -> None:
        """A frame that has more than one may have."""


class Over(Exception):
    """There is nothing more to read."""


class WebSocket:
    """One websocket of an Engine.IO connection. Without compression: it costs memory and CPU and saves little."""

    def __init__(self, handler: Callable[..., Awaitable[None]], transport: Server) -> None:
        self._connection: Any = handler.__self__  # type: ignore[attr-defined]  # a method of the Engine.IO socket
        self._transport = transport
        self._ws = web.WebSocketResponse(
            compress=False,
            max_msg_size=transport.max_frame,
            timeout=LAST_WORDS_SECONDS,
            decode_text=False,
            autoping=False,
        )
        self._request: web.Request | None = None
        self._reading = False
        """Whether nothing that was read is in hand."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        """Whether the client has still to answer a ping."""
        self._chatter, self._chatter_since = 0, 0.0
        self._frames: list[bytes] = []
        self._unwritten = 0
        self._pump: asyncio.Task[None] | None = None
        self._over = False
        self._ended: asyncio.Event | None = None

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        eio_sid = self._connection.sid
        if self._connection.upgrading:
            raise web.HTTPBadRequest(text="One upgrade at a time")
        self._request = environ["aiohttp.request"]
        try:
            await self._ws.prepare(self._request)
        except web.HTTPException:
            if not self._connection.connected:  # else it goes on polling
                await self._connection.close(wait=False, abort=True)
            raise web.HTTPBadRequest(text="Not a websocket") from None
        self._transport.websockets[eio_sid] = self
        try:
            if await self._begin():
                await self._serve()
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

    # --- reading --------------------------------------------------------------------------------------------------

    async def _begin(self) -> bool:
        """Have the connection go through here from now on, be it new or on its way from polling; whether it does."""
        connection = self._connection
        if connection.connected:
            connection.upgrading = True
            if not await self._upgraded():
                return False
            connection.upgrading = False
            self._asked = True  # by Engine.IO, some time
            self._set_timer(connection.server.ping_interval + connection.server.ping_timeout)
        else:
            connection.connected = True
            self._set_timer(connection.server.ping_interval)
        connection.upgraded = True
        connection.queue.websocket = self
        self.pump()
        return True

    async def _upgraded(self) -> bool:
        try:
            async with asyncio.timeout(UPGRADE_SECONDS):
                if await self._next() != "2probe":
                    return False
                await self._ws.send_str("3probe")
                self._connection.queue.put_nowait(Packet(NOOP))  # ends the poll
                return await self._next() == "5"
        except (Over, TimeoutError, OSError):
            return False

    async def _serve(self) -> None:
        connection = self._connection
        try:
            while not connection.closed:
                frame = await self._next()
                match frame[0]:
                    case "4":
                        await self._transport.message(connection.sid, frame[1:])
                    case "3":
                        self._asked = False
                        connection.last_ping = None
                        self._set_timer(connection.server.ping_interval)
                        await self._chat()
                    case "1":
                        reason = connection.server.reason.CLIENT_DISCONNECT
                        await connection.close(wait=False, abort=True, reason=reason)
                    case _:
                        await self._chat()
        except Over:
            pass
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if (pump := self._pump) is not None:
                await asyncio.wait({pump}, timeout=LAST_WORDS_SECONDS)
                pump.cancel()
            reason = connection.server.reason.TRANSPORT_CLOSE
            await connection.close(wait=False, abort=True, reason=reason)

    async def _next(self) -> str:
        """The next frame that takes the long way. Raises :class:`Over`."""
        eio_sid = self._connection.sid
        while True:
            self._reading = True
            message = await self._ws.receive()
            self._reading = False
            if message.type is WSMsgType.TEXT:
                raw: bytes = message.data
                if raw.startswith(PREFIX) and self._transport.at_once(eio_sid, raw):
                    continue
                try:
                    frame = raw.decode()
                    packets.check_frame(frame)
                except UnicodeDecodeError:
                    await self._ws.close(code=WSCloseCode.INVALID_TEXT)
                    raise Over from None
                except Malformed as error:
                    await self._transport.garbage(eio_sid, str(error))
                    continue
                return frame
            match message.type:
                case WSMsgType.BINARY:
                    await self._transport.garbage(eio_sid, packets.BINARY)
                case WSMsgType.PING:
                    await self._pong(message.data)
                    await self._chat()
                case WSMsgType.PONG:
                    await self._chat()
                case _:
                    if getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                        self._transport.too_large()
                    raise Over

    async def _pong(self, data: bytes) -> None:
        try:
            await self._ws.pong(data)
        except OSError:
            raise Over from None

    async def _chat(self) -> None:
        """A frame came that means nothing; too many of them are garbage."""
        now = asyncio.get_running_loop().time()
        if now - self._chatter_since > CHATTER_SECONDS:
            self._chatter, self._chatter_since = 0, now
        self._chatter += 1
        if self._chatter > CHATTER_MAX:
            await self._transport.garbage(self._connection.sid, "Too many pings")

    # --- asking whether the client is there -----------------------------------------------------------------------

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        if not self._asked:
            self._asked = True
            if not self.write(b"2"):
                self._connection.queue.put_nowait(Packet(PING))
        elif self._reading:
            self.abort()
            return
        # Else its answer may have come, and waits until what came before it is done with.
        self._set_timer(self._connection.server.ping_timeout)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Write one frame at the end of this turn of the event loop; whether that was possible.

        If not, because something is before it or the client does not read, it is to wait in the queue.
        """
        if not self._frames:
            transport = self._request.transport if self._request is not None else None
            if (
                transport is None
                or transport.is_closing()
                or transport.get_write_buffer_size() > UNWRITTEN_BYTES
                or self._pump is not None
                or self._ws.closed
                or self._connection.closed
            ):
                return False
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._unwritten > UNWRITTEN_BYTES or self._pump is not None:
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
        transport = self._request.transport if self._request is not None else None
        if frames and not self._ws.closed and transport is not None:
            transport.write(b"".join(frames))

    def pump(self) -> None:
        """Write what waits in the queue, as fast as the client reads."""
        if self._pump is None and not self._connection.queue.empty():
            self._pump = asyncio.create_task(self._pump_all())

    async def _pump_all(self) -> None:
        self._flush()
        queue: Outgoing = self._connection.queue
        try:
            while not queue.empty():
                packet = queue.take()
                queue.task_done()
                if packet is None:
                    await self._ws.close()
                    return
                await self._ws.send_str(packet.encode())
        except OSError:  # the connection is over, and its reader about to say so
            await self._ws.close()
        finally:
            self._pump = None
