"""The reading half of a websocket: each message at once, or behind those before it that have to be waited for."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import WebSocketError, WSCloseCode, WSMsgType

from services.gateway.compat.aiohttp_compat import WebSocketReader
from services.gateway.compat.engineio_compat import Connection
from services.gateway.protocol.relay_template import PREFIXES
from services.gateway.websocket.framing import Writing
from services.gateway.websocket.heartbeat import Heartbeat
from services.gateway.websocket.read_queue import Broken, ReadQueue
from services.gateway.websocket.writer import Stage
from shared.observability import logs

if TYPE_CHECKING:
    from services.gateway.websocket.connection import WebSocket

log = logs.get(__name__)

Work = Coroutine[Any, Any, None]
_OPEN, _TEXT = Stage.OPEN, WSMsgType.TEXT


class ConnectionServer(Protocol):
    """What a websocket needs of the transport."""

    websockets: "dict[str, WebSocket]"
    writing: Writing
    max_frame: int

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """A frame that may be a relay; whether it is done with."""

    async def message(self, eio_sid: str, packet: str) -> None:
        """A Socket.IO packet; the next one waits until this returns. Raises nothing."""

    async def posted(self, eio_sid: str) -> None:
        """Wait until what the client posts by polling is handled."""

    def polls_no_more(self, eio_sid: str) -> None:
        """Let go of what is kept for a client that polls."""

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""

    def answered(self, eio_sid: str) -> None:
        """A pong has come that answers a ping."""

    def broke(self, reason: str) -> None:
        """A connection is ended without a word."""

    def too_large(self) -> None:
        """A frame that has more than one may have."""


class Intake(Heartbeat):
    """Hands messages to :meth:`_take`, in order."""

    __slots__ = ("_frames", "_over", "_reader", "_server", "_sid", "_task")

    def __init__(self, connection: Connection, stage: Stage, server: ConnectionServer) -> None:
        super().__init__(connection, stage, server.writing)
        self._sid: str = connection.sid
        self._server = server
        self._frames = ReadQueue(self)
        self._reader: WebSocketReader | None = WebSocketReader(
            self._frames, server.max_frame, compress=False, decode_text=False
        )
        self._task: asyncio.Task[None] | None = None
        """Does what cannot be done at once; while it is there, what is read waits."""
        self._over = False

    def _take(self, message: Any) -> Work | None:
        """Do what a message says, or say what there is to be waited for."""
        raise NotImplementedError

    async def _end(self) -> None:
        """It is over."""
        raise NotImplementedError

    def _silent(self) -> None:
        self._server.broke("ping_timeout")
        self.abort()

    def data_received(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.feed_data(data)

    def received(self, message: Any, size: int) -> None:
        """A message has been read. Raises nothing, because it would go unseen."""
        try:
            if self._task is None:
                if not self._is_done(message) and (work := self._take(message)) is not None:
                    self._begin(work)
            elif message.data == b"3" and message.type is WSMsgType.TEXT and not self._chat():
                if self._pong():  # which says nothing about what came before it
                    self._server.answered(self._sid)
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
                    message = await self._frames.read()
                    if not self._is_done(message) and (more := self._take(message)) is not None:
                        break
                work = more
        except Exception:
            log.exception("frame not handled", connection=self._sid)
            self.abort()
        finally:
            self._task = None
            if self._transport is None and not self._over:
                await self._end()

    def _is_done(self, message: Any) -> bool:
        """Whether a message was a relay that could be taken at once."""
        return (
            self._stage is _OPEN
            and message.type is _TEXT
            and message.data.startswith(PREFIXES)
            and self._server.at_once(self._sid, message.data)
        )

    # --- called by the frames that wait -----------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._reading_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._reading_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
