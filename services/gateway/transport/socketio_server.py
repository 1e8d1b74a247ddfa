"""Socket.IO on aiohttp: python-socketio and python-engineio, with our own eyes in front of what clients send.

The libraries keep handshake, polling, upgrade, pings and namespaces. Ours are: reading a websocket frame or a polling
body (checked before Engine.IO decodes it), reading a Socket.IO packet (checked before Socket.IO would), and writing
events from JSON that is never decoded here. It builds on the inner workings of exactly pinned versions.
"""

from collections.abc import Coroutine
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


class Receiver(Protocol):
    """Who takes what clients send."""

    def connected(self, sid: str, eio_sid: str, auth: object) -> None:
        """A client has connected to the namespace. ``auth``: what it sent along, any JSON."""

    async def after_connect(self, sid: str) -> None:
        """The client has been told that it is connected; whatever it sends waits until this returns."""

    async def event(self, sid: str, packet: EventPacket) -> None:
        """An event of a connected client; the next one of the same client waits until this returns."""

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """A frame that may be a relay, before anybody has looked at it; whether it is done with."""

    async def malformed(self, eio_sid: str, what: str, ack_id: int | None = None) -> None:
        """Something that is no packet."""

    async def foreign(self, eio_sid: str) -> None:
        """A packet of a namespace that does not exist. The default namespace hears nothing of it."""

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """The client left, or its transport broke."""

    async def owes(self, sid: str) -> bool:
        """Settle what can be settled with a client that is to go; whether an answer to it is still to come."""

    def opened(self, eio_sid: str) -> None:
        """A connection begins, before its client has said anything."""

    def closed(self, eio_sid: str) -> None:
        """A connection is over."""


class SocketIOServer(socketio.AsyncServer):  # type: ignore[misc]  # untyped
    """The Socket.IO server. Give it its ``receiver`` before it is attached to an application."""

    receiver: Receiver
    eio: engineio_compat.Server
    manager: Manager

    def __init__(
        self,
        *,
        origin_allowed: OriginAllowed,
        host_allowed: HostAllowed | None,
        ping_interval: int,
        ping_timeout: int,
        max_frame: int,
        unread_max: int,
        unread_seconds: float,
        unread_total: int,
        depth: int,
        connections: ConnectionLimits,
        hits: LimitHits,
    ) -> None:
        super().__init__(
            async_mode="aiohttp",
            async_handlers=False,
            cors_allowed_origins=[],  # not its business: see origins
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            max_http_buffer_size=max_frame,
            http_compression=False,
            monitor_clients=False,  # a task and a timer for each client in turn; see Polling
            client_manager=OneRoomManager(),
            logger=LibraryLogger("socketio"),
            engineio_logger=LibraryLogger("engineio"),
        )
        self.max_frame = max_frame
        self._depth = depth
        self._connections = connections
        self._hits = hits
        self._in_hand: set[str] = set()
        self.draining = False
        """Whether clients that are not connected yet are to go elsewhere."""
        self.websockets: dict[str, WebSocket] = {}
        self.flushes = FlushScheduler()
        self.closing = Closer(self.eio, self.websockets, self._owes)
        self.close_soon, self.close = self.closing.soon, self.closing.now
        self._doomed = self.closing.doomed
        self.sending = Sender(
            self.eio.sockets, self.websockets, self.closing, unread_max=unread_max, hits=hits
        )
        self.send_event, self.ask, self.unheard = (
            self.sending.send_event, self.sending.ask, self.sending.unheard,
        )  # fmt: skip
        self.unread_total = UnreadTotal(unread_total)
        self._unread = UnreadLimits(
            self.eio.sockets, self.unread_total, self.sending.break_off, seconds=unread_seconds
        )
        self._polling = HttpPolling(
            self.eio,
            self,
            origin_allowed,
            host_allowed,
            connections,
            lambda connection: WebSocket(connection, self),
            hits,
            unread_seconds=unread_seconds,
        )
        engineio_compat.replace_parts(
            self.eio, lambda connection: WebSocket(connection, self), lambda: SendQueue(self.unread_total)
        )
        self._library = LibraryHandlers(self.eio)
        self.eio.on("connect", self._connection_opened)
        self.eio.on("disconnect", self._connection_closed)
        self.on("connect", self._on_connect)
        self.on("disconnect", self._on_disconnect)

    def attach(self, app: web.Application, socketio_path: str = PATH) -> None:
        """Answer requests below a path."""
        path = f"/{socketio_path}/"
        app.router.add_get(path, self._polling.handle)
        app.router.add_post(path, self._polling.handle)
        app.router.add_options(path, self._polling.handle)

    def start(self) -> None:
        """Look after clients, from now on."""
        self._polling.start()
        self._unread.start()

    async def shutdown(self) -> None:
        """Stop everything."""
        await self._polling.stop()
        await self._unread.stop()
        await super().shutdown()

    async def _owes(self, eio_sid: str) -> bool:
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        return eio_sid in self._in_hand or (sid is not None and await self.receiver.owes(sid))

    # --- reading --------------------------------------------------------------------------------------------------

    def take_relay(self, eio_sid: str, frame: bytes) -> bool:
        """Handle a websocket frame that may be a relay. Return False if it has to go through :meth:`message`.

        It has to while an event of the same client is being handled.
        """
        if eio_sid in self._doomed or eio_sid in self._in_hand:
            return False
        return self.receiver.at_once(eio_sid, frame)

    async def _connection_opened(self, eio_sid: str, environ: Environ) -> None:
        self._connections.opened(eio_sid, engineio_compat.request_of(environ))
        if engineio_compat.asks_for_websocket(environ):
            self.eio.sockets[
                eio_sid
            ].last_ping = None  # else Engine.IO would ask it, too, whether it is there
        await self._library.connected(eio_sid, environ)
        self.receiver.opened(eio_sid)

    async def _connection_closed(self, eio_sid: str, reason: str) -> None:
        await self._library.disconnected(eio_sid, reason)
        if (connection := self.eio.sockets.get(eio_sid)) is not None:
            connection.queue.end_polls()  # a poll that hangs ends now
            if not connection.upgraded:
                connection.queue.discard()  # no poll is answered any more
        if (websocket := self.websockets.get(eio_sid)) is not None:
            websocket.close_upgrade()
        self.end_polling(eio_sid)
        self.sending.gone(eio_sid)
        self._doomed.discard(eio_sid)
        self._connections.closed(eio_sid)
        self.receiver.closed(eio_sid)

    async def message(self, eio_sid: str, data: str) -> None:
        """What may be a Socket.IO packet. Raises nothing: a defect of ours is logged, and costs that packet alone."""
        connection = self.eio.sockets.get(eio_sid)
        if eio_sid in self._doomed or connection is None or connection.closed:
            return
        try:
            try:
                packet = packets.parse(data, self._depth)
                if isinstance(packet, EventPacket):
                    sid = self.manager.sid_from_eio_sid(eio_sid, "/")
                    if sid is None or not self.manager.is_connected(sid, "/"):
                        raise Malformed("Not connected to the namespace")
                    await self._in_turn(eio_sid, self.receiver.event(sid, packet))
                elif isinstance(packet, DisconnectPacket):
                    await self._library.disconnect_packet(eio_sid)
                    self.close_soon(eio_sid)
                elif isinstance(packet, ForeignPacket):
                    if packet.connect:
                        self.sending.send_connect_error(eio_sid, packet.namespace)
                    await self.receiver.foreign(eio_sid)
                else:
                    await self._connect(eio_sid, data)
            except Malformed as error:
                if data[:1] == "0" and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
                    self.sending.send_connect_error(eio_sid, message=str(error))
                await self.receiver.malformed(eio_sid, str(error), error.ack_id)
        except Exception:
            log.exception("packet not handled", connection=eio_sid)

    async def _connect(self, eio_sid: str, data: str) -> None:
        if self.manager.sid_from_eio_sid(eio_sid, "/") is not None:
            raise Malformed("Connected already")
        await self._library.connect_packet(eio_sid, data)
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if sid is not None:
            await self._in_turn(eio_sid, self.receiver.after_connect(sid))

    async def _in_turn(self, eio_sid: str, work: Coroutine[Any, Any, None]) -> None:
        """Do what a client asked for. Meanwhile nothing of the same client takes the short way."""
        self._in_hand.add(eio_sid)
        try:
            await work
        finally:
            self._in_hand.discard(eio_sid)

    async def _on_connect(self, sid: str, environ: Environ, auth: object = None) -> None:
        environ.clear()  # kept for as long as the connection, and not needed any more
        self.receiver.connected(sid, self.manager.eio_sid_from_sid(sid, "/"), auth)

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        # Of Socket.IO's reasons only this one is a packet of the client's application. An Engine.IO close packet is
        # a transport that breaks: client libraries send it when one of their requests fails.
        self.receiver.disconnected(sid, on_purpose=reason == self.reason.CLIENT_DISCONNECT)

    async def malformed(self, eio_sid: str, what: str) -> None:
        """Answer a malformed frame, unless its connection is being closed. ``what``: for the client to read."""
        if eio_sid not in self._doomed:
            await self.receiver.malformed(eio_sid, what)

    def pong_received(self, eio_sid: str) -> None:
        """Note a pong that answers a ping."""
        self.sending.answered(eio_sid)

    async def wait_for_post(self, eio_sid: str) -> None:
        """Wait until the body that a client posts by polling, if any, is handled."""
        await self._polling.wait_for_post(eio_sid)

    def end_polling(self, eio_sid: str) -> None:
        """Discard what is kept for a client that polls."""
        self._polling.forget(eio_sid)

    def count_aborted(self, reason: str) -> None:
        """Count a connection that is aborted without a message to its client."""
        self.sending.broken[reason] += 1

    def break_off(self, eio_sid: str, limit: str) -> None:
        """Abort the connection of a client that has exceeded a limit of unread bytes."""
        self.sending.break_off(eio_sid, limit)

    def frame_too_large(self) -> None:
        """Count a frame or a polling request that is larger than allowed."""
        self._hits.hit("frame_size")
