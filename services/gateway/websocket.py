"""A websocket, in the place of aiohttp's and of Engine.IO's own loops.

Those have tasks for each connection, and a task and a timer for each frame that is read and for each that is written.
Here a frame is handled as it is read. Only what cannot be done at once has a task, behind which what comes next waits;
what can be written is written at once, and one timer a connection asks whether the client is still there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, Protocol

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web
from aiohttp._websocket.reader import WebSocketReader
from aiohttp.http_websocket import WS_CLOSED_MESSAGE
from engineio.packet import NOOP, PING, Packet

from services.gateway import packets
from services.gateway.frames import Broken, Frames
from services.gateway.handshake import Handshake
from services.gateway.outgoing import Outgoing
from services.gateway.packets import Malformed
from services.gateway.short import PREFIX
from services.gateway.writing import CLOSE, PONG, TEXT, Writing, framed
from shared import logs

log = logs.get(__name__)

LAST_WORDS_SECONDS = 2.0
"""How long a client that is to be closed has to read why."""
UPGRADE_SECONDS = 10.0
"""How long an upgrade from polling may take."""
CHATTER_MAX, CHATTER_SECONDS = 100, 10.0
"""How many pings, pongs and the like a client may send in how long: each costs, and none means anything."""
UNWRITTEN_BYTES = 32 * 1024
"""What may wait in a connection before the rest waits for it, and counts as not read by the client."""
Work = Coroutine[Any, Any, None]


class Server(Protocol):
    """What a websocket needs of the transport."""

    websockets: "dict[str, WebSocket]"
    writing: Writing
    max_frame: int

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """A frame that may be a relay; whether it is done with."""

    async def message(self, eio_sid: str, packet: str) -> None:
        """A Socket.IO packet; the next one waits until this returns. Raises nothing."""

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""

    def too_large(self) -> None:
        """A frame that has more than one may have."""


class Stage(Enum):
    """How far a websocket is. In :attr:`PROBING` and :attr:`UPGRADING` its client polls yet."""

    PROBING = auto()
    UPGRADING = auto()
    OPEN = auto()
    CLOSING = auto()
    """Our close frame is out: nothing is heard but the client's."""


class WebSocket(asyncio.Protocol):
    """One websocket of an Engine.IO connection. Without compression: it costs memory and CPU and saves little."""

    __slots__ = (
        "_asked", "_chatter", "_chatter_since", "_connection", "_ended", "_frames", "_full", "_out", "_out_size",
        "_over", "_reader", "_reading_paused", "_server", "_sid", "_stage", "_task", "_timer", "_transport", "_writing",
    )  # fmt: skip

    def __init__(self, handler: Callable[..., Awaitable[None]], server: Server) -> None:
        self._connection: Any = handler.__self__  # type: ignore[attr-defined]  # a method of the Engine.IO socket
        self._sid: str = self._connection.sid
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._frames = Frames(self)
        self._reader: WebSocketReader | None = WebSocketReader(
            self._frames, server.max_frame, compress=False, decode_text=False
        )
        self._stage = Stage.PROBING if self._connection.connected else Stage.OPEN
        self._task: asyncio.Task[None] | None = None
        """Does what cannot be done at once; while it is there, what is read waits."""
        self._reading_paused = False
        self._full = False
        """Whether the client does not read what is written."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        """Whether the client has still to answer a ping."""
        self._chatter, self._chatter_since = 0, 0.0
        self._writing = server.writing
        self._out: list[bytes] = []
        self._out_size = 0
        self._over = False
        self._ended: asyncio.Event | None = None

    async def __call__(self, environ: dict[str, Any]) -> web.StreamResponse:
        handshake, connection = Handshake(compress=False), self._connection
        if connection.upgrading:
            raise web.HTTPBadRequest(text="One upgrade at a time")
        connection.upgrading = self._stage is Stage.PROBING
        try:
            transport, read = await handshake.hand_over(environ["aiohttp.request"], self)
        except web.HTTPException:
            connection.upgrading = False
            if self._stage is Stage.OPEN:  # else it goes on polling
                await connection.close(wait=False, abort=True)
            raise web.HTTPBadRequest(text="Not a websocket") from None
        except ConnectionError:
            if self._stage is Stage.OPEN:
                connection.queue.websocket = self
            await self._end()
            return handshake
        transport.set_write_buffer_limits(high=UNWRITTEN_BYTES)
        self._transport = transport
        self._server.websockets.setdefault(self._sid, self)
        if self._stage is Stage.OPEN:
            connection.connected = True
            self._open(connection.server.ping_interval)
        else:
            self._set_timer(UPGRADE_SECONDS)
        if read:
            self.data_received(read)
        return handshake

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
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """What was read before is handled yet."""
        self._transport = self._reader = None
        if self._task is not None:
            self._frames.put(WS_CLOSED_MESSAGE, 0)
        elif not self._over:
            self._begin(self._end())

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.pump()

    # --- reading ----------------------------------------------------------------------------------------------------

    def received(self, message: Any, size: int) -> None:
        """A message has been read. Raises nothing, because it would go unseen."""
        try:
            if self._task is None:
                if (work := self._take(message)) is not None:
                    self._begin(work)
            elif message.data == b"3" and message.type is WSMsgType.TEXT and not self._chat():
                self._pong()  # which says nothing about what came before it
            else:
                self._frames.put(message, size)
        except Exception:
            log.exception("frame not handled", connection=self._sid)
            self.abort()

    def broken(self, error: BaseException) -> None:
        """What was read is not to be understood, and neither is what comes after it."""
        code = error.code if isinstance(error, WebSocketError) else WSCloseCode.PROTOCOL_ERROR
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            self._server.too_large()
        if self._task is None:
            self._close(code)
        else:
            self._frames.put(Broken(code), 0)

    def _begin(self, work: Work) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work_off(work))

    async def _work_off(self, work: Work) -> None:
        """Do what cannot be done at once, and then what was read meanwhile, in order."""
        try:
            while True:
                await work
                if self._connection.closed and self._stage is not Stage.CLOSING:
                    self._close()
                while True:
                    if self._frames.empty():
                        return
                    more = self._take(await self._frames.read())
                    if more is not None:
                        break
                work = more
        except Exception:
            log.exception("frame not handled", connection=self._sid)
            self.abort()
        finally:
            self._task = None
            if self._transport is None and not self._over:
                await self._end()

    def _take(self, message: Any) -> Work | None:
        """Do what a message says, or say what there is to be waited for."""
        if message is WS_CLOSED_MESSAGE:
            return self._end()
        if self._stage is Stage.CLOSING:
            if message.type is WSMsgType.CLOSE and self._transport is not None:
                self._transport.close()
            return None
        if message.type is WSMsgType.TEXT:
            raw: bytes = message.data
            if self._stage is Stage.OPEN:
                if raw.startswith(PREFIX) and self._server.at_once(self._sid, raw):
                    return None
                if raw == b"3":
                    self._pong()
                    return self._counted()
            return self._take_text(raw)
        if message.type is WSMsgType.BINARY:
            return self._server.garbage(self._sid, packets.BINARY)
        if message.type is WSMsgType.PING:
            self._put(PONG, message.data)
            return self._counted()
        if message.type is WSMsgType.PONG:
            return self._counted()
        if message.type is WSMsgType.CLOSE:
            self._close()
            self.flush()
            if self._transport is not None:
                self._transport.close()
        elif isinstance(message, Broken):
            self._close(message.code)
        return None

    def _take_text(self, raw: bytes) -> Work | None:
        try:
            frame = raw.decode()
            packets.check_frame(frame)
        except UnicodeDecodeError:
            self._close(WSCloseCode.INVALID_TEXT)
            return None
        except Malformed as error:
            return self._server.garbage(self._sid, str(error))
        connection = self._connection
        if connection.closed:
            return None  # and will be told so
        if self._stage is not Stage.OPEN:
            self._upgrade(frame)
        elif frame[0] == "4":
            return self._server.message(self._sid, frame[1:])
        elif frame[0] == "1":
            reason = connection.server.reason.CLIENT_DISCONNECT
            close: Work = connection.close(wait=False, abort=True, reason=reason)
            return close
        else:
            return self._counted()
        return None

    def _counted(self) -> Work | None:
        """For what means nothing: one too many is garbage."""
        return self._server.garbage(self._sid, "Too many pings") if self._chat() else None

    def _chat(self) -> bool:
        """Whether what means nothing is too much now."""
        now = asyncio.get_running_loop().time()
        if now - self._chatter_since > CHATTER_SECONDS:
            self._chatter, self._chatter_since = 0, now
        self._chatter += 1
        return self._chatter > CHATTER_MAX

    def _upgrade(self, frame: str) -> None:
        """The next step from polling to here."""
        connection = self._connection
        if frame == "2probe" and self._stage is Stage.PROBING:
            self._stage = Stage.UPGRADING
            self._put(TEXT, b"3probe")
            connection.queue.put_nowait(Packet(NOOP))  # ends the poll
        elif frame == "5" and self._stage is Stage.UPGRADING and not connection.upgraded:
            connection.upgrading = False
            self._stage = Stage.OPEN
            self._asked = True  # by Engine.IO, some time
            self._open(connection.server.ping_interval + connection.server.ping_timeout)
        else:
            self._close()

    def _open(self, ask_after: float) -> None:
        """Have the connection go through here from now on."""
        self._server.websockets[self._sid] = self
        self._set_timer(ask_after)
        self._connection.upgraded = True
        self._connection.queue.websocket = self
        self.pump()

    # --- the end ----------------------------------------------------------------------------------------------------

    def _close(self, code: int = WSCloseCode.OK) -> None:
        """Say that it is to end. The client ends it then, or a timer does."""
        if self._stage is Stage.CLOSING:
            return
        self._put(CLOSE, int(code).to_bytes(2))
        self._stage = Stage.CLOSING
        self._set_timer(LAST_WORDS_SECONDS)

    async def _end(self) -> None:
        """It is over, and the connection with it, unless the client polls yet."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection = self._connection
        if self._server.websockets.get(self._sid) is self:
            del self._server.websockets[self._sid]
        if connection.queue.websocket is self:
            reason = connection.server.reason.TRANSPORT_CLOSE
            await connection.close(wait=False, abort=True, reason=reason)
            if connection.server.sockets.get(self._sid) is connection:
                del connection.server.sockets[self._sid]
        elif not connection.upgraded:
            connection.upgrading = False  # an upgrade that came to nothing: polling goes on
        if self._ended is not None:
            self._ended.set()

    # --- asking whether the client is there -----------------------------------------------------------------------

    def _pong(self) -> None:
        self._asked = False
        self._connection.last_ping = None
        if self._stage is Stage.OPEN:
            self._set_timer(self._connection.server.ping_interval)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._stage is Stage.CLOSING:
            self.abort()
            return
        if self._stage is not Stage.OPEN:
            self._close()
            return
        if not self._asked:
            self._asked = True
            if not self.write(b"2"):
                self._connection.queue.put_nowait(Packet(PING))
        elif not self._reading_paused:
            self.abort()
            return
        # Else its answer may have come, and waits to be read until what came before it is done with.
        self._set_timer(self._connection.server.ping_timeout)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Write one frame at the end of this turn of the event loop; whether that was possible.

        If not, because the client does not read, it is to wait in the queue.
        """
        if self._full or self._stage is not Stage.OPEN or self._connection.closed:
            return False
        return self._put(TEXT, data)

    def _put(self, kind: int, data: bytes) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        frame = framed(kind, data)
        if not self._out:
            self._writing.add(self)
        self._out.append(frame)
        self._out_size += len(frame)
        if self._out_size > UNWRITTEN_BYTES:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the frames of this turn: together, because a system call costs more than all else about them."""
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        self._out_size = 0
        out.clear()

    def pump(self) -> None:
        """Write what waits in the queue, as far as the client reads."""
        queue: Outgoing = self._connection.queue
        while self._stage is Stage.OPEN and not (self._full or self._transport is None or queue.empty()):
            packet = queue.take()
            queue.task_done()
            if packet is None:
                self._close()
            else:
                self._put(TEXT, packet.encode().encode())

    # --- called by the frames that wait -----------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._reading_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._reading_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
