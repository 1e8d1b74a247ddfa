"""Read and write one websocket of an Engine.IO connection, in the place of aiohttp's and of Engine.IO's own loops.

Those have tasks for each connection, and a task and a timer for each frame that is read and for each that is written.
Here a frame is handled as it is read. Only what has to be awaited gets a task, behind which later frames wait.
Frames of one event-loop tick are written together, and one timer for each connection sends pings.

What a frame or the timer means is decided by ``WebSocketState``, in ``state.py``.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web
from aiohttp.http_websocket import WS_CLOSED_MESSAGE
from engineio.packet import PING, Packet

from services.gateway.compat.aiohttp_compat import WebSocketReader
from services.gateway.compat.engineio_compat import Connection, Environ, request_of
from services.gateway.protocol import packets
from services.gateway.protocol.packets import Malformed
from services.gateway.protocol.relay_template import PREFIXES
from services.gateway.websocket.framing import CLOSE, PONG, TEXT, FlushScheduler, encode_frame
from services.gateway.websocket.handshake import Handshake
from services.gateway.websocket.read_queue import ReadQueue, Unreadable
from services.gateway.websocket.send_queue import QueuedMessage, SendQueue
from services.gateway.websocket.state import Action, Stage, Timeout, WebSocketState
from shared.observability import logs

log = logs.get(__name__)

CLOSE_SECONDS = 2.0
"""Time for a client to read why its connection is about to be closed."""
UPGRADE_SECONDS = 10.0
"""Time limit of an upgrade from polling."""
WRITE_BUFFER_BYTES = 32 * 1024
"""Bytes that may wait in a connection before more wait in the queue, and count as not read by the client."""

Work = Coroutine[Any, Any, None]
# Looking up a member of an enumeration costs more than all else that write() compares.
_OPEN, _TEXT_MESSAGE = Stage.OPEN, WSMsgType.TEXT


class WebSocketServer(Protocol):
    """Describes what a websocket needs of the Socket.IO server."""

    websockets: "dict[str, WebSocket]"
    flushes: FlushScheduler
    max_frame: int

    def take_relay(self, eio_sid: str, frame: bytes) -> bool:
        """Handle a frame that may be a relay. Return False if it has to go through :meth:`message`."""

    async def message(self, eio_sid: str, packet: str) -> None:
        """Handle a Socket.IO packet; the next one waits until this returns. Raises nothing."""

    async def wait_for_post(self, eio_sid: str) -> None:
        """Wait until the body that the client posts by polling is handled."""

    def end_polling(self, eio_sid: str) -> None:
        """Discard what is kept for a client that polls."""

    async def malformed(self, eio_sid: str, what: str) -> None:
        """Answer a malformed frame."""

    def pong_received(self, eio_sid: str) -> None:
        """Note a pong that answers a ping."""

    def count_aborted(self, reason: str) -> None:
        """Count a connection that is aborted without a message to its client."""

    def frame_too_large(self) -> None:
        """Count a frame that is larger than allowed."""


class WebSocket(asyncio.Protocol):
    """One websocket of an Engine.IO connection. Without compression: it costs memory and CPU and saves little."""

    __slots__ = (
        "_connection", "_done", "_done_event", "_flushed", "_frames", "_frames_size", "_parser", "_queue",
        "_read_queue", "_reading_paused", "_server", "_sid", "_state", "_task", "_timer", "_transport",
        "_writing_paused",
    )  # fmt: skip

    def __init__(self, connection: Connection, server: WebSocketServer) -> None:
        self._connection = connection
        self._server = server
        self._sid = connection.sid
        self._queue: SendQueue = connection.queue
        self._state = WebSocketState(Stage.PROBING if connection.connected else Stage.OPEN)
        self._transport: asyncio.Transport | None = None
        self._read_queue = ReadQueue(self)
        self._parser: WebSocketReader | None = WebSocketReader(
            self._read_queue, server.max_frame, compress=False, decode_text=False
        )
        self._reading_paused = False
        self._task: asyncio.Task[None] | None = None
        """Handles what has to be awaited; meanwhile what is read waits in the read queue."""
        self._timer: asyncio.TimerHandle | None = None
        self._writing_paused = False
        """True if the client does not read what is written."""
        self._frames: list[bytes] = []
        """Frames to write at the end of this tick."""
        self._frames_size = 0
        self._flushed = 0
        """Bytes that the transport has been given."""
        self._done = False
        self._done_event: asyncio.Event | None = None

    @property
    def awaits_pong(self) -> bool:
        """True if the client has still to answer a ping of the heartbeat."""
        return self._state.awaits_pong

    async def __call__(self, environ: Environ) -> web.StreamResponse:
        """Answer the handshake and begin. Raises ``HTTPBadRequest`` for a request that is none."""
        handshake, connection = Handshake(compress=False), self._connection
        if connection.upgrading:
            raise web.HTTPBadRequest(text="One upgrade at a time")
        connection.upgrading = self._state.stage is Stage.PROBING
        try:
            transport, read = await handshake.hand_over(request_of(environ), self)
        except web.HTTPException:
            connection.upgrading = False
            if self._state.stage is Stage.OPEN:  # else it goes on polling
                await connection.close(wait=False, abort=True)
            raise web.HTTPBadRequest(text="Not a websocket") from None
        except ConnectionError:
            if self._state.stage is Stage.OPEN:
                connection.queue.websocket = self
            await self._finish()
            return handshake
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._transport = transport
        self._server.websockets.setdefault(self._sid, self)
        if self._state.stage is Stage.OPEN:
            connection.connected = True
            self._open(connection.server.ping_interval)
        else:
            self._set_timer(UPGRADE_SECONDS)
            if connection.closed:  # meanwhile
                self.close_upgrade()
        if read:
            self.data_received(read)
        return handshake

    async def wait_closed(self, timeout: float) -> bool:
        """Return True if the websocket ends within ``timeout`` seconds."""
        if not self._done:
            self._done_event = asyncio.Event()
            try:
                async with asyncio.timeout(timeout):
                    await self._done_event.wait()
            except TimeoutError:
                return False
        return True

    def close_upgrade(self) -> None:
        """Close the websocket if its connection, which has ended, still polls."""
        if self._state.stage in (Stage.PROBING, Stage.UPGRADING):
            self._close()

    def abort(self) -> None:
        """End the websocket now, unread data included."""
        if self._transport is not None:
            self._transport.abort()

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Write one text frame at the end of this event-loop tick. Return False if it has to wait in the queue."""
        if (
            self._writing_paused
            or self._state.stage is not _OPEN
            or self._queue.items
            or self._connection.closed
        ):
            return False
        return self._put(TEXT, data)

    def send_queued(self) -> None:
        """Write what waits in the queue, as far as the client reads."""
        queue, state = self._queue, self._state
        while state.stage is _OPEN and not (self._writing_paused or self._transport is None or queue.empty()):
            packet = queue.pop()
            queue.task_done()
            if packet is None:
                self._close()
            elif isinstance(packet, QueuedMessage):
                self._put(TEXT, packet.frame())
            else:
                self._put(TEXT, packet.encode().encode())
                if packet.packet_type == PING:
                    queue.ping_sent(self._flushed + self._frames_size)

    def ping(self) -> None:
        """Send a ping, behind what waits."""
        if self.write(b"2"):
            self._queue.ping_sent(self._flushed + self._frames_size)
        else:
            self._queue.put_nowait(Packet(PING))

    def flush(self) -> None:
        """Write the frames of this tick: together, because a system call costs more than all else about them."""
        frames = self._frames
        if frames and self._transport is not None:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        self._flushed += self._frames_size
        self._frames_size = 0
        frames.clear()

    def _put(self, first_byte: int, data: bytes) -> bool:
        """Add a frame to those of this tick. Return False if the connection is closing."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        frame = encode_frame(first_byte, data)
        frames = self._frames
        if not frames:
            self._server.flushes.add(self)
        frames.append(frame)
        self._frames_size += len(frame)
        if self._frames_size > WRITE_BUFFER_BYTES:
            self.flush()
        return True

    def pause_writing(self) -> None:
        """Queue what is sent from now on: the client does not read fast enough."""
        self._writing_paused = True
        if self._transport is not None and self._queue.websocket is self:
            self._queue.buffer_filled(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Send what is queued: the client has read enough."""
        self._writing_paused = False
        self._queue.buffer_drained(self)
        self.send_queued()

    # --- reading ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client; :meth:`received` gets the messages."""
        if self._parser is not None:
            self._parser.feed_data(data)

    def received(self, message: Any, size: int) -> None:
        """Handle a message of the parser, or have it wait. Raises nothing: the parser in C would not pass it on."""
        try:
            if self._task is None:
                if not self._take_relay(message) and (work := self._take(message)) is not None:
                    self._start(work)
            elif message.data == b"3" and message.type is WSMsgType.TEXT and not self._count_control_frame():
                self._take_pong()  # a pong says nothing about the frames before it, so it need not wait for them
            else:
                self._read_queue.put(message, size)
        except Exception:
            log.exception("frame not handled", connection=self._sid)
            self.abort()

    def broken(self, error: BaseException) -> None:
        """Close the websocket, behind the frames before, because the parser cannot read what was sent."""
        code = error.code if isinstance(error, WebSocketError) else WSCloseCode.PROTOCOL_ERROR
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            self._server.frame_too_large()
        if self._task is None:
            self._close(code)
        else:
            self._read_queue.put(Unreadable(code), 0)

    def pause_reading(self) -> None:
        """Read nothing more: the read queue is full."""
        self._reading_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._reading_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish, behind the frames that were read before."""
        self._transport = self._parser = None
        if self._task is not None:
            self._read_queue.put(WS_CLOSED_MESSAGE, 0)
        elif not self._done:
            self._start(self._finish())

    def _start(self, work: Work) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Work) -> None:
        """Await ``work``, then handle what was read meanwhile, in order."""
        try:
            while True:
                await work
                if self._connection.closed and self._state.stage is not Stage.CLOSING:
                    self._close()
                while True:
                    if self._read_queue.empty():
                        return
                    message = await self._read_queue.read()
                    if not self._take_relay(message) and (more := self._take(message)) is not None:
                        break
                work = more
        except Exception:
            log.exception("frame not handled", connection=self._sid)
            self.abort()
        finally:
            self._task = None
            if self._transport is None and not self._done:
                await self._finish()

    def _take_relay(self, message: Any) -> bool:
        """Return True if a message was a relay that could be handled without waiting."""
        return (
            self._state.stage is _OPEN
            and message.type is _TEXT_MESSAGE
            and message.data.startswith(PREFIXES)
            and self._server.take_relay(self._sid, message.data)
        )

    def _take(self, message: Any) -> Work | None:
        """Handle a message. Return what of it has to be awaited."""
        if message is WS_CLOSED_MESSAGE:
            return self._finish()
        if self._state.stage is Stage.CLOSING:
            if message.type is WSMsgType.CLOSE and self._transport is not None:
                self._transport.close()
            return None
        if message.type is WSMsgType.TEXT:
            return self._take_text(message.data)
        if message.type is WSMsgType.BINARY:
            return self._server.malformed(self._sid, packets.BINARY)
        if message.type is WSMsgType.PING:
            self._put(PONG, message.data)
            return self._take_control_frame()
        if message.type is WSMsgType.PONG:
            return self._take_control_frame()
        if message.type is WSMsgType.CLOSE:
            self._close()
            self.flush()
            if self._transport is not None:
                self._transport.close()
        elif isinstance(message, Unreadable):
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
            return self._server.malformed(self._sid, str(error))
        connection = self._connection
        if connection.closed and not (frame == packets.PONG and self._state.stage is Stage.OPEN):
            return None  # the close frame is on its way
        match self._state.text(frame):
            case Action.TAKE_MESSAGE:
                return self._server.message(self._sid, frame[1:])
            case Action.TAKE_PONG:
                self._take_pong()
                return self._take_control_frame()
            case Action.COUNT:
                return self._take_control_frame()
            case Action.END:
                reason = connection.server.reason.TRANSPORT_CLOSE
                end: Work = connection.close(wait=False, abort=True, reason=reason)
                return end
            case Action.ANSWER_PROBE:
                self._put(TEXT, b"3probe")
                self._queue.end_polls()  # the client waits for the end of its poll before it goes on
            case Action.FINISH_UPGRADE:
                return self._finish_upgrade()
            case Action.CLOSE:
                self._close()
        return None

    def _take_pong(self) -> None:
        """Take a pong: a sign of life if it answers a ping that has left, for a client cannot answer any other."""
        left = self._flushed - self._transport.get_write_buffer_size() if self._transport is not None else 0
        if not self._queue.pong_received(left):
            return
        self._state.pong()
        self._connection.last_ping = None
        if self._state.stage is Stage.OPEN:
            self._set_timer(self._connection.server.ping_interval)
        self._server.pong_received(self._sid)

    def _count_control_frame(self) -> bool:
        return self._state.control_frame(asyncio.get_running_loop().time())

    def _take_control_frame(self) -> Work | None:
        """Count a frame without a message. Return the answer to one too many."""
        return self._server.malformed(self._sid, "Too many pings") if self._count_control_frame() else None

    # --- the upgrade from polling -----------------------------------------------------------------------------------

    async def _finish_upgrade(self) -> None:
        """Make the websocket the connection's transport, once what the client has posted before is handled."""
        connection = self._connection
        await self._server.wait_for_post(self._sid)
        if self._state.stage is not Stage.UPGRADING or connection.closed:
            return
        connection.upgrading = False
        self._state.open()
        server = connection.server
        self._server.end_polling(self._sid)
        self._open(server.ping_interval + (server.ping_timeout if self._state.awaits_pong else 0))

    def _open(self, ping_after: float) -> None:
        """Send and receive here from now on. ``ping_after``: seconds until the first ping."""
        self._server.websockets[self._sid] = self
        self._set_timer(ping_after)
        self._connection.upgraded = True
        self._connection.queue.websocket = self
        self.send_queued()

    # --- the timer --------------------------------------------------------------------------------------------------

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._timer_expired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timer_expired(self) -> None:
        self._timer = None
        match self._state.timer_expired(reading_paused=self._reading_paused):
            case Timeout.PING:
                self.ping()
                self._set_timer(self._connection.server.ping_timeout)
            case Timeout.WAIT:
                self._set_timer(self._connection.server.ping_timeout)
            case Timeout.GIVE_UP:
                self._server.count_aborted("ping_timeout")
                self.abort()
            case Timeout.CLOSE:
                self._close()
            case Timeout.ABORT:
                self.abort()

    # --- the end ----------------------------------------------------------------------------------------------------

    def _close(self, code: int = WSCloseCode.OK) -> None:
        """Send a close frame, after which the client or the timer ends the websocket."""
        if self._state.close():
            self._put(CLOSE, int(code).to_bytes(2))
            self._set_timer(CLOSE_SECONDS)

    async def _finish(self) -> None:
        """End the Engine.IO connection too, unless its client still polls."""
        self._done = True
        self._stop_timer()
        connection = self._connection
        if self._server.websockets.get(self._sid) is self:
            del self._server.websockets[self._sid]
        if connection.queue.websocket is self:
            reason = connection.server.reason.TRANSPORT_CLOSE
            await connection.close(wait=False, abort=True, reason=reason)
            connection.queue.discard()
            if connection.server.sockets.get(self._sid) is connection:
                del connection.server.sockets[self._sid]
        elif not connection.upgraded:
            connection.upgrading = False  # the upgrade has failed: polling goes on
            if not connection.closed:
                self._queue.resume_polls()
        if self._done_event is not None:
            self._done_event.set()
