"""A websocket, in the place of aiohttp's and of Engine.IO's own loops.

Those have tasks for each connection, and a task and a timer for each frame that is read and for each that is written.
Here a frame is handled as it is read. Only what cannot be done at once has a task, behind which what comes next waits;
what can be written is written at once, and one timer a connection asks whether the client is still there.
"""

import asyncio
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_websocket import WS_CLOSED_MESSAGE

from services.gateway.compat.engineio_compat import Connection, Environ, request_of
from services.gateway.protocol import packets
from services.gateway.protocol.packets import Malformed
from services.gateway.websocket.framing import CLOSE, PONG, TEXT
from services.gateway.websocket.handshake import Handshake
from services.gateway.websocket.read_queue import Broken
from services.gateway.websocket.reader import ConnectionServer, Intake, Work
from services.gateway.websocket.writer import UNWRITTEN_BYTES, Stage
from shared.observability import logs

log = logs.get(__name__)

LAST_WORDS_SECONDS = 2.0
"""How long a client that is to be closed has to read why."""
UPGRADE_SECONDS = 10.0
"""How long an upgrade from polling may take."""


class WebSocket(Intake):
    """One websocket of an Engine.IO connection. Without compression: it costs memory and CPU and saves little."""

    __slots__ = ("_ended",)

    def __init__(self, connection: Connection, server: ConnectionServer) -> None:
        super().__init__(connection, Stage.PROBING if connection.connected else Stage.OPEN, server)
        self._ended: asyncio.Event | None = None

    async def __call__(self, environ: Environ) -> web.StreamResponse:
        handshake, connection = Handshake(compress=False), self._connection
        if connection.upgrading:
            raise web.HTTPBadRequest(text="One upgrade at a time")
        connection.upgrading = self._stage is Stage.PROBING
        try:
            transport, read = await handshake.hand_over(request_of(environ), self)
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
            if connection.closed:  # meanwhile
                self.give_up()
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

    def give_up(self) -> None:
        """Close a websocket whose connection, which is still polling, is over."""
        if self._stage in (Stage.PROBING, Stage.UPGRADING):
            self._close()

    # --- called by the event loop -----------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """What was read before is handled yet."""
        self._transport = self._reader = None
        if self._task is not None:
            self._frames.put(WS_CLOSED_MESSAGE, 0)
        elif not self._over:
            self._begin(self._end())

    # --- reading ----------------------------------------------------------------------------------------------------

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
            if raw == b"3" and self._stage is Stage.OPEN:
                if self._pong():
                    self._server.answered(self._sid)
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
            return self._upgrade(frame)
        if frame[0] == "4":
            return self._server.message(self._sid, frame[1:])
        if frame == packets.CLOSE:
            reason = connection.server.reason.TRANSPORT_CLOSE
            close: Work = connection.close(wait=False, abort=True, reason=reason)
            return close
        return self._counted()

    def _counted(self) -> Work | None:
        """For what means nothing: one too many is garbage."""
        return self._server.garbage(self._sid, "Too many pings") if self._chat() else None

    def _upgrade(self, frame: str) -> Work | None:
        """The next step from polling to here."""
        if frame == "2probe" and self._stage is Stage.PROBING:
            self._stage = Stage.UPGRADING
            self._put(TEXT, b"3probe")
            self._queue.release()  # polls end at once from now on: the client waits for that before it goes on
        elif frame == "5" and self._stage is Stage.UPGRADING:
            self._asked = True  # by Engine.IO, some time; the answer may come while this waits
            return self._upgraded()
        else:
            self._close()
        return None

    async def _upgraded(self) -> None:
        """Go on here, behind what the client has posted before."""
        connection = self._connection
        await self._server.posted(self._sid)
        if self._stage is not Stage.UPGRADING or connection.closed:
            return
        connection.upgrading = False
        self._stage = Stage.OPEN
        server = connection.server
        self._server.polls_no_more(self._sid)
        self._open(server.ping_interval + (server.ping_timeout if self._asked else 0))

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
            connection.upgrading = False  # an upgrade that came to nothing: polling goes on
            if not connection.closed:
                self._queue.hold()
        if self._ended is not None:
            self._ended.set()
