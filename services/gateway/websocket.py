"""Engine.IO over an aiohttp websocket: our own driver in place of engineio's.

engineio's makes a task and a timer for every frame, turns on deflate, and decodes frames where an exception ends in
the log. This one reads frames in one loop, refuses garbage, and is where a short way for relays can branch off.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, WSMsgType, web
from engineio import packet as eio
from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError, QueueEmpty

from services.gateway.packets import BINARY, BadPacket, Frame, frame_of
from shared import logs

if TYPE_CHECKING:
    from services.gateway.transport import Engine

log = logs.get(__name__)

CLOSE_SECONDS = 2.0
"""How long a client may take over the closing handshake, or over reading what is on its way to it."""
_BROKEN = (OSError, ClientError, RuntimeError)
"""What aiohttp raises for a websocket that is gone."""


class WebSocket:
    """Drives one websocket. engineio makes it and calls it with the request."""

    def __init__(self, handler: Any, engine: "Engine") -> None:
        self._socket: AsyncSocket = handler.__self__
        self._engine = engine
        self._ws = web.WebSocketResponse(
            compress=False, max_msg_size=engine.max_http_buffer_size, timeout=CLOSE_SECONDS
        )
        self._transport: asyncio.Transport | None = None

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        request: web.Request = environ["aiohttp.request"]
        socket = self._socket
        upgrade = socket.connected
        if socket.upgrading:
            raise web.HTTPBadRequest(text="Upgrading already")
        try:
            await self._ws.prepare(request)
        except (web.HTTPException, *_BROKEN):
            if not upgrade:
                await self._gone()
            raise
        self._transport = request.transport
        try:
            if upgrade and not await self._upgrade():
                return self._ws
            socket.connected = socket.upgraded = True
            await self._drive()
        finally:
            await self._close()
        return self._ws

    async def _upgrade(self) -> bool:
        socket = self._socket
        socket.upgrading = True  # the polling side answers with NOOP meanwhile
        try:
            if await self._text() != "2probe":
                return False
            await self._ws.send_str("3probe")
            socket.queue.put_nowait(eio.Packet(eio.NOOP))  # ends the poll
            return await self._text() == "5" and not socket.closed
        except _BROKEN:
            return False
        finally:
            socket.upgrading = False

    async def _text(self) -> str | None:
        message = await self._receive()
        return message.data if message is not None and message.type is WSMsgType.TEXT else None

    async def _receive(self) -> Any:
        """The next message, ``None`` when no more will come."""
        engine = self._engine
        try:
            message = await self._ws.receive(timeout=engine.ping_interval + engine.ping_timeout)
        except (TimeoutError, *_BROKEN):
            return None
        return message if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) else None

    async def _drive(self) -> None:
        socket, engine = self._socket, self._engine
        engine.attach_abort(socket.sid, self._abort)
        writer = asyncio.create_task(self._write(), name="websocket writer")
        try:
            await self._read()
        finally:
            socket.queue.put_nowait(None)  # the writer sends what is before it and ends
            await asyncio.wait({writer}, timeout=CLOSE_SECONDS)
            self._abort() if not writer.done() else None
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await self._gone()

    async def _read(self) -> None:
        socket = self._socket
        while not socket.closed:
            message = await self._receive()
            if message is None:
                return
            try:
                if message.type is WSMsgType.BINARY:
                    raise BadPacket(BINARY)
                frame = frame_of(message.data)
                if frame is not Frame.IGNORED:
                    await socket.receive(eio.Packet(int(frame.value), message.data[1:]))
            except BadPacket as error:
                self._engine.refuse(socket.sid, error)
            except EngineIOError:
                return  # closed meanwhile

    async def _write(self) -> None:
        try:
            while packets := await self._socket.poll():
                for packet in packets:
                    await self._ws.send_str(packet.encode())
        except (QueueEmpty, *_BROKEN):
            pass
        await self._close()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ws.close()
        except (TimeoutError, *_BROKEN):
            self._abort()

    async def _gone(self) -> None:
        socket = self._socket
        await socket.close(wait=False, abort=True, reason=self._engine.reason.TRANSPORT_CLOSE)
        self._engine.sockets.pop(socket.sid, None)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
