"""Serve Socket.IO on aiohttp with python-socketio and python-engineio, behind checks of our own.

The libraries do handshakes, namespaces and the life of a connection. Ours are: reading a websocket frame or a polling
body (checked before Engine.IO decodes it), reading a Socket.IO packet (checked before Socket.IO would), and writing
events from JSON that is never decoded here. It builds on the inner workings of exactly pinned versions: see ``compat``.
"""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import socketio
from aiohttp import web

from services.gateway.compat import engineio_compat
from services.gateway.compat.engineio_compat import Environ
from services.gateway.compat.socketio_compat import LibraryHandlers, Manager, OneRoomManager
from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.protocol import packets
from services.gateway.protocol.packets import DisconnectPacket, EventPacket, ForeignPacket, Malformed
from services.gateway.transport.closer import Closer
from services.gateway.transport.host_check import HostAllowed
from services.gateway.transport.http_polling import HttpPolling
from services.gateway.transport.library_logger import LibraryLogger
from services.gateway.transport.origin_check import OriginAllowed
from services.gateway.transport.sender import Sender
from services.gateway.transport.unread_limits import UnreadLimits
from services.gateway.websocket.connection import WebSocket
from services.gateway.websocket.framing import FlushScheduler
from services.gateway.websocket.send_queue import SendQueue, UnreadTotal
from shared.observability import logs
from shared.observability.limit_hits import LimitHits

log = logs.get(__name__)

PATH = "socket.io"


class ClientHandler(Protocol):
    """Handles what clients send."""

    def connected(self, sid: str, eio_sid: str, auth: object) -> None:
        """Note that a client has connected to the namespace. ``auth``: what it sent along, any JSON."""

    async def after_connect(self, sid: str) -> None:
        """Go on once the client's connect packet is answered; its next packet waits until this returns."""

    async def event(self, sid: str, packet: EventPacket) -> None:
        """Handle an event of a connected client; the client's next packet waits until this returns."""

    async def malformed(self, eio_sid: str, what: str, ack_id: int | None = None) -> None:
        """Answer a frame that is no packet."""

    async def foreign(self, eio_sid: str) -> None:
        """Count a packet of a namespace that does not exist."""

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """Note that a client has left. ``on_purpose``: False if its transport broke."""

    async def owes(self, sid: str) -> bool:
        """Settle what can be settled with a client that is to go. Return True if a reply to it is still to come."""

    def opened(self, eio_sid: str) -> None:
        """Note a new connection, before its client has sent a packet."""

    def closed(self, eio_sid: str) -> None:
        """Note that a connection has ended."""


class FastPath(Protocol):
    """Handles frames that need not be parsed."""

    def take(self, eio_sid: str, frame: bytes) -> bool:
        """Handle a websocket frame. Return False if it has to be parsed; nothing was done then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketIOOptions:
    """Limits of connections. Times are in seconds."""

    ping_interval: int
    ping_timeout: int
    max_frame: int
    """Bytes of one websocket frame or polling request."""
    json_depth: int
    """Lists and objects in each other."""
    unread_max: int
    """Bytes that may wait for a client."""
    unread_seconds: float
    """Time limit of a byte that waits."""
    unread_total: int
    """Bytes that may wait for all clients."""


class SocketIOServer(socketio.AsyncServer):  # type: ignore[misc]  # untyped
    """The Socket.IO server. Call :meth:`attach` before it gets requests."""

    _handler: ClientHandler
    _fast_path: FastPath
    eio: engineio_compat.Server
    manager: Manager

    def __init__(
        self,
        options: SocketIOOptions,
        *,
        origin_allowed: OriginAllowed,
        host_allowed: HostAllowed | None,
        connections: ConnectionLimits,
        hits: LimitHits,
    ) -> None:
        super().__init__(
            async_mode="aiohttp",
            async_handlers=False,
            cors_allowed_origins=[],  # checked by http_polling
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
            max_http_buffer_size=options.max_frame,
            http_compression=False,
            monitor_clients=False,  # it takes a task and a timer for each client; http_polling checks them itself
            client_manager=OneRoomManager(),
            logger=LibraryLogger("socketio"),
            engineio_logger=LibraryLogger("engineio"),
        )
        self.max_frame = options.max_frame
        self._json_depth = options.json_depth
        self._connections = connections
        self._hits = hits
        self._handling: set[str] = set()
        """Connections of which an event is being handled."""
        self.draining = False
        """True if new clients have to connect to another gateway."""
        self.websockets: dict[str, WebSocket] = {}
        self.flushes = FlushScheduler()
        self.closer = Closer(self.eio, self.websockets, self._reply_pending)
        self._closing = self.closer.closing
        self.sender = Sender(
            self.eio.sockets, self.websockets, self.closer, unread_max=options.unread_max, hits=hits
        )
        self.unread_total = UnreadTotal(options.unread_total)
        self._unread = UnreadLimits(
            self.eio.sockets, self.unread_total, self.sender.abort, seconds=options.unread_seconds
        )
        self._polling = HttpPolling(
            self.eio,
            self,
            origin_allowed,
            host_allowed,
            connections,
            lambda connection: WebSocket(connection, self),
            hits,
            unread_seconds=options.unread_seconds,
        )
        engineio_compat.replace_parts(
            self.eio, lambda connection: WebSocket(connection, self), lambda: SendQueue(self.unread_total)
        )
        self._library = LibraryHandlers(self.eio)
        self.eio.on("connect", self._connection_opened)
        self.eio.on("disconnect", self._connection_closed)
        self.on("connect", self._on_connect)
        self.on("disconnect", self._on_disconnect)

    def attach(self, app: web.Application, handler: ClientHandler, fast_path: FastPath) -> None:
        """Answer requests to :data:`PATH`, and pass to ``handler`` what clients send.

        Both come here and not to the constructor because they send through this server.
        """
        self._handler, self._fast_path = handler, fast_path
        path = f"/{PATH}/"
        app.router.add_get(path, self._polling.handle)
        app.router.add_post(path, self._polling.handle)
        app.router.add_options(path, self._polling.handle)

    def start(self) -> None:
        """Check clients that poll, and unread bytes, until :meth:`shutdown`."""
        self._polling.start()
        self._unread.start()

    def begin_draining(self) -> None:
        """Have new clients connect to another gateway from now on."""
        self.draining = True

    async def shutdown(self) -> None:
        """Stop all tasks."""
        await self._polling.stop()
        await self._unread.stop()
        await super().shutdown()

    async def _reply_pending(self, eio_sid: str) -> bool:
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        return eio_sid in self._handling or (sid is not None and await self._handler.owes(sid))

    # --- connections ------------------------------------------------------------------------------------------------

    async def _connection_opened(self, eio_sid: str, environ: Environ) -> None:
        self._connections.opened(eio_sid, engineio_compat.request_of(environ))
        if engineio_compat.asks_for_websocket(environ):
            self.eio.sockets[eio_sid].last_ping = None  # else Engine.IO would send pings, too
        await self._library.connected(eio_sid, environ)
        self._handler.opened(eio_sid)

    async def _connection_closed(self, eio_sid: str, reason: str) -> None:
        await self._library.disconnected(eio_sid, reason)
        if (connection := self.eio.sockets.get(eio_sid)) is not None:
            connection.queue.end_polls()
            if not connection.upgraded:
                connection.queue.discard()  # polls are refused from now on
        if (websocket := self.websockets.get(eio_sid)) is not None:
            websocket.close_upgrade()
        self.end_polling(eio_sid)
        self.sender.forget(eio_sid)
        self._closing.discard(eio_sid)
        self._connections.closed(eio_sid)
        self._handler.closed(eio_sid)

    async def _on_connect(self, sid: str, environ: Environ, auth: object = None) -> None:
        environ.clear()  # kept for as long as the connection, and not needed any more
        self._handler.connected(sid, self.manager.eio_sid_from_sid(sid, "/"), auth)

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        # Of Socket.IO's reasons only this one is a packet of the client's application. An Engine.IO close packet is
        # a transport that breaks: client libraries send it when one of their requests fails.
        self._handler.disconnected(sid, on_purpose=reason == self.reason.CLIENT_DISCONNECT)

    # --- packets ----------------------------------------------------------------------------------------------------

    def take_relay(self, eio_sid: str, frame: bytes) -> bool:
        """Handle a websocket frame that may be a relay. Return False if it has to go through :meth:`message`.

        It has to while an event of the same client is being handled.
        """
        if eio_sid in self._closing or eio_sid in self._handling:
            return False
        return self._fast_path.take(eio_sid, frame)

    async def message(self, eio_sid: str, data: str) -> None:
        """Handle what may be a Socket.IO packet. Raises nothing: a defect is logged, and costs that packet alone."""
        connection = self.eio.sockets.get(eio_sid)
        if eio_sid in self._closing or connection is None or connection.closed:
            return
        try:
            try:
                packet = packets.parse(data, self._json_depth)
                if isinstance(packet, EventPacket):
                    sid = self.manager.sid_from_eio_sid(eio_sid, "/")
                    if sid is None or not self.manager.is_connected(sid, "/"):
                        raise Malformed("Not connected to the namespace")
                    await self._handle(eio_sid, self._handler.event(sid, packet))
                elif isinstance(packet, DisconnectPacket):
                    await self._library.disconnect_packet(eio_sid)
                    self.closer.close_soon(eio_sid)
                elif isinstance(packet, ForeignPacket):
                    if packet.connect:
                        self.sender.send_connect_error(eio_sid, packet.namespace)
                    await self._handler.foreign(eio_sid)
                else:
                    await self._connect(eio_sid, data)
            except Malformed as error:
                if data[:1] == "0" and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
                    self.sender.send_connect_error(eio_sid, message=str(error))
                await self._handler.malformed(eio_sid, str(error), error.ack_id)
        except Exception:
            log.exception("packet not handled", connection=eio_sid)

    async def _connect(self, eio_sid: str, data: str) -> None:
        if self.manager.sid_from_eio_sid(eio_sid, "/") is not None:
            raise Malformed("Connected already")
        await self._library.connect_packet(eio_sid, data)
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if sid is not None:
            await self._handle(eio_sid, self._handler.after_connect(sid))

    async def _handle(self, eio_sid: str, work: Coroutine[Any, Any, None]) -> None:
        """Await the handling of an event, during which relays of the same client do not take the fast path."""
        self._handling.add(eio_sid)
        try:
            await work
        finally:
            self._handling.discard(eio_sid)

    # --- called by websockets and polling ---------------------------------------------------------------------------

    async def malformed(self, eio_sid: str, what: str) -> None:
        """Answer a malformed frame, unless its connection is being closed. ``what``: for the client to read."""
        if eio_sid not in self._closing:
            await self._handler.malformed(eio_sid, what)

    def pong_received(self, eio_sid: str) -> None:
        """Note a pong that answers a ping."""
        self.sender.pong_received(eio_sid)

    async def wait_for_post(self, eio_sid: str) -> None:
        """Wait until the body that a client posts by polling, if any, is handled."""
        await self._polling.wait_for_post(eio_sid)

    def end_polling(self, eio_sid: str) -> None:
        """Discard what is kept for a client that polls."""
        self._polling.forget(eio_sid)

    def count_aborted(self, reason: str) -> None:
        """Count a connection that is aborted without a message to its client."""
        self.sender.aborted[reason] += 1

    async def close(self, eio_sid: str) -> None:
        """Close a connection, even if its client does not read."""
        await self.closer.close(eio_sid)

    def abort(self, eio_sid: str, limit: str) -> None:
        """Abort the connection of a client that has exceeded a limit of unread bytes."""
        self.sender.abort(eio_sid, limit)

    def frame_too_large(self) -> None:
        """Count a frame or a polling request that is larger than allowed."""
        self._hits.hit("frame_size")
