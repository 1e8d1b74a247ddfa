"""Socket.IO on aiohttp: python-socketio and python-engineio, with our own eyes in front of what clients send.

The libraries keep handshake, polling, upgrade, pings and namespaces. Ours are: reading a websocket frame or a polling
body (checked before Engine.IO decodes it), reading a Socket.IO packet (checked before Socket.IO would), and writing
events from JSON that is never decoded here. It builds on the inner workings of exactly pinned versions.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, urlsplit

import socketio
from aiohttp import web
from bidict import ValueDuplicationError
from engineio.async_drivers import aiohttp as driver
from engineio.packet import MESSAGE, PING, Packet
from engineio.payload import Payload

from services.gateway import packets
from services.gateway.connections import Connections
from services.gateway.outgoing import Outgoing
from services.gateway.packets import ConnectPacket, DisconnectPacket, EventPacket, Malformed
from services.gateway.turns import Doorway
from services.gateway.websocket import LAST_WORDS_SECONDS, WebSocket
from services.gateway.writing import Writing
from shared import logs
from shared.hits import Hits

log = logs.get(__name__)

Payload.max_decode_packets = (
    packets.PACKETS_PER_POST
)  # 16 by default, which socket.io-client does not know of

PATH = "socket.io"
POLLS_LOOK_SECONDS = 1.0
BODY_SECONDS = 10.0
"""How long a polling request may take to bring its body."""
WAITING_MAX = 8_192
"""Connections that may wait to be let in."""
LET_READ_SECONDS = 5.0
"""How long a client may take over a part of what it missed. What it sends meanwhile waits."""


class Receiver(Protocol):
    """Who takes what clients send."""

    def connected(self, sid: str, eio_sid: str, auth: object) -> None:
        """A client has connected to the namespace. ``auth``: what it sent along, any JSON."""

    async def event(self, sid: str, packet: EventPacket) -> None:
        """An event of a connected client; the next one of the same client waits until this returns."""

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """A frame that may be a relay, before anybody has looked at it; whether it is done with."""

    async def malformed(self, eio_sid: str, what: str, ack_id: int | None = None) -> None:
        """Something that is no packet."""

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """The client left, or its transport broke."""

    async def owes(self, sid: str) -> bool:
        """Settle what can be settled with a client that is to go; whether an answer to it is still to come."""

    def opened(self, eio_sid: str) -> None:
        """A connection begins, before its client has said anything."""

    def closed(self, eio_sid: str) -> None:
        """A connection is over."""


class Transport(socketio.AsyncServer):  # type: ignore[misc]  # untyped
    """The Socket.IO server. Give it its ``receiver`` before it is attached to an application."""

    def __init__(
        self,
        *,
        origin_allowed: Callable[[str | None, dict[str, Any]], bool],
        ping_interval: int,
        ping_timeout: int,
        max_frame: int,
        unread_max: int,
        depth: int,
        connections: Connections,
        hits: Hits,
    ) -> None:
        super().__init__(
            async_mode="aiohttp",
            async_handlers=False,
            cors_allowed_origins=origin_allowed,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            max_http_buffer_size=max_frame,
            http_compression=False,
            monitor_clients=False,  # a task and a timer for each client in turn; see _look_after_polls
            client_manager=Clients(),
            logger=_Quiet("socketio"),
            engineio_logger=_Quiet("engineio"),
        )
        self.receiver: Receiver | None = None
        self.max_frame = max_frame
        self._origin_allowed = origin_allowed
        self._unread_max = unread_max
        self._depth = depth
        self._connections = connections
        self._hits = hits
        self._closing: set[asyncio.Task[None]] = set()
        self._doomed: set[str] = set()
        self._in_hand: set[str] = set()
        self._asked: dict[str, Any] = {}
        self._doorway = Doorway(WAITING_MAX)
        self.draining = False
        """Whether clients that are not connected yet are to go elsewhere."""
        self.websockets: dict[str, WebSocket] = {}
        self.writing = Writing()
        self.eio._async = {
            **self.eio._async,
            "translate_request": self._translate_request,
            "websocket": lambda handler, _eio: WebSocket(handler, self),
        }
        self.eio.create_queue = Outgoing
        self._of_engineio = self.eio.handle_request
        self.eio.handle_request = self._handle_request
        self._posting: set[str] = set()
        """Connections whose client is sending a polling request."""
        self._polls: asyncio.Task[None] | None = None
        self.on("connect", self._on_connect)
        self.on("disconnect", self._on_disconnect)

    def start(self) -> None:
        """Look after clients that poll, from now on; websockets look after themselves."""
        self._polls = asyncio.create_task(self._look_after_polls(), name="polls")

    async def shutdown(self) -> None:
        """Stop everything."""
        if self._polls is not None:
            self._polls.cancel()
            await asyncio.gather(self._polls, return_exceptions=True)
        await super().shutdown()

    async def _look_after_polls(self) -> None:
        """Close connections of clients that do not answer pings."""
        while True:
            await asyncio.sleep(POLLS_LOOK_SECONDS)
            for eio_sid, connection in list(self.eio.sockets.items()):
                if connection.closed:
                    self.eio.sockets.pop(eio_sid, None)
                elif not connection.upgraded and not connection.closing:
                    await connection.check_ping_timeout()

    # --- writing --------------------------------------------------------------------------------------------------

    def send_event(self, eio_sid: str, event: str, payload: bytes) -> None:
        """Write an event whose only argument is ``payload`` (JSON, taken as it is)."""
        self._send(eio_sid, b'2["%b",%b]' % (event.encode(), payload))

    def send_ack(self, eio_sid: str, ack_id: int, payload: bytes) -> None:
        """Acknowledge an event with ``payload`` (JSON, taken as it is)."""
        self._send(eio_sid, b"3%d[%b]" % (ack_id, payload))

    def _send(self, eio_sid: str, packet: bytes) -> None:
        connection = self.eio.sockets.get(eio_sid)
        if connection is None or connection.closed:
            return
        queue: Outgoing = connection.queue
        if queue.write(packet):
            return
        if queue.size >= self._unread_max:
            if eio_sid not in self._doomed:
                self._hits.hit("unread")
                log.warning("client does not read: closing it", bytes=queue.size)
                self.close_soon(eio_sid)
            return
        queue.put_nowait(Packet(MESSAGE, packet.decode()))

    def unread(self) -> tuple[int, int]:
        """Bytes that wait for clients to read them, and how many clients those are."""
        sizes = [size for connection in self.eio.sockets.values() if (size := connection.queue.size)]
        return sum(sizes), len(sizes)

    def ask(self, eio_sid: str) -> None:
        """Ask a client for a sign that it has got what was sent to it; see :meth:`unheard`.

        One that polls is not asked: Engine.IO would go on asking it twice as often.
        """
        connection = self.eio.sockets.get(eio_sid)
        if connection is None or connection.closed or not connection.upgraded:
            return
        self._asked[eio_sid] = connection
        connection.last_ping = time.time()  # until a pong comes; websockets have a timer of their own
        if not connection.queue.write_frame(b"2"):
            connection.queue.put_nowait(Packet(PING))

    def unheard(self, eio_sid: str) -> bool:
        """Whether the client was asked and has not answered."""
        connection = self._asked.get(eio_sid)
        return connection is not None and connection.last_ping is not None

    async def let_read(self, eio_sid: str) -> None:
        """Wait until a client has read the better part of what was sent to it, :data:`LET_READ_SECONDS` at most."""
        connection = self.eio.sockets.get(eio_sid)
        loop = asyncio.get_running_loop()
        until = loop.time() + LET_READ_SECONDS
        while connection is not None and not connection.closed and loop.time() < until:
            if connection.queue.size <= self._unread_max // 2:
                return
            await asyncio.sleep(0.02)

    def close_soon(self, eio_sid: str) -> None:
        """Hear nothing more from a connection, and close it once its client could read what was sent to it.

        What the client had sent before is answered first.
        """
        if eio_sid not in self._doomed:
            self._doomed.add(eio_sid)
            task = asyncio.create_task(self._close_when_read(eio_sid))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close_when_read(self, eio_sid: str) -> None:
        connection = self.eio.sockets.get(eio_sid)
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_WORDS_SECONDS
        while connection is not None and not connection.closed and loop.time() < until:
            await asyncio.sleep(0.05)
            owes = await self._owes(eio_sid)
            if connection.queue.empty() and connection.upgraded and not owes:
                break
        await self.close(eio_sid)

    async def _owes(self, eio_sid: str) -> bool:
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        return eio_sid in self._in_hand or (sid is not None and await self._receiver.owes(sid))

    async def close(self, eio_sid: str) -> None:
        """Close a connection, whether its client reads or not."""
        connection = self.eio.sockets.pop(eio_sid, None)
        if connection is None:
            return
        websocket = self.websockets.get(eio_sid)
        # Engine.IO's own way waits, without a limit, until the client has read everything.
        await connection.close(wait=False, reason=self.eio.reason.SERVER_DISCONNECT)
        connection.queue.put_nowait(None)  # ends its writer, which closes the websocket
        if websocket is not None and not await websocket.ended(LAST_WORDS_SECONDS):
            websocket.abort()

    async def close_all(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(self.close(eio_sid) for eio_sid in list(self.eio.sockets)))

    # --- reading --------------------------------------------------------------------------------------------------

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """Take the short way with a websocket frame, if it has one and nothing is before it."""
        if eio_sid in self._doomed or eio_sid in self._in_hand:
            return False
        return self._receiver.at_once(eio_sid, frame)

    async def message(self, eio_sid: str, packet: str) -> None:
        """A Socket.IO packet from a websocket."""
        try:
            await self._handle_eio_message(eio_sid, packet)
        except Exception:
            log.exception("packet not handled", connection=eio_sid)

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        self._connections.opened(eio_sid, environ["aiohttp.request"])
        if "HTTP_UPGRADE" in environ:
            self.eio.sockets[
                eio_sid
            ].last_ping = None  # else Engine.IO would ask it, too, whether it is there
        await super()._handle_eio_connect(eio_sid, environ)
        self._receiver.opened(eio_sid)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        self._asked.pop(eio_sid, None)
        self._doomed.discard(eio_sid)
        self._connections.closed(eio_sid)
        self._receiver.closed(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: object) -> None:
        if eio_sid in self._doomed:
            return
        try:
            if not isinstance(data, str):
                raise Malformed(packets.BINARY)
            packet = packets.parse(data, self._depth)
            if isinstance(packet, EventPacket):
                sid = self.manager.sid_from_eio_sid(eio_sid, "/")
                if sid is None or not self.manager.is_connected(sid, "/"):
                    raise Malformed("Not connected to the namespace")
                self._in_hand.add(eio_sid)
                try:
                    await self._receiver.event(sid, packet)
                finally:
                    self._in_hand.discard(eio_sid)
            elif isinstance(packet, DisconnectPacket):
                await super()._handle_eio_message(eio_sid, "1")
                self.close_soon(eio_sid)
            else:
                await self._connect(eio_sid, packet, data)
        except Malformed as error:
            await self._receiver.malformed(eio_sid, str(error), error.ack_id)

    async def _connect(self, eio_sid: str, packet: ConnectPacket, data: str) -> None:
        if packet.namespace == "/" and self.manager.sid_from_eio_sid(eio_sid, "/") is not None:
            raise Malformed("Connected already")
        await super()._handle_eio_message(eio_sid, data)
        if packet.namespace != "/":
            raise Malformed("No such namespace")  # Socket.IO has said so; but it does not count

    async def _on_connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        environ.clear()  # kept for as long as the connection, and not needed any more
        self._receiver.connected(sid, self.manager.eio_sid_from_sid(sid, "/"), auth)

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        self._receiver.disconnected(sid, on_purpose=reason == self.reason.CLIENT_DISCONNECT)

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""
        if eio_sid not in self._doomed:
            await self._receiver.malformed(eio_sid, what)

    def too_large(self) -> None:
        """Somebody sent more than a frame or a polling request may have."""
        self._hits.hit("frame_size")

    @property
    def _receiver(self) -> Receiver:
        assert self.receiver is not None, "the composition root sets it"
        return self.receiver

    async def _translate_request(self, request: web.Request) -> dict[str, Any]:
        """The environment that Engine.IO wants, with the body of a POST read and checked."""
        environ: dict[str, Any] = driver.translate_request(request)
        eio_sid = _session_of(request)
        if eio_sid is None:
            if self.draining:
                raise web.HTTPServiceUnavailable(text="Draining: connect to another server")
            self._connections.check(request)
            if not await self._doorway.through(lambda: _is_there(request)) or self.draining:
                raise web.HTTPServiceUnavailable(text="Too many at once", headers={"Retry-After": "1"})
            self._connections.check(request)  # again: others were let in meanwhile
        if request.method == "POST":
            body = await self._body(request, eio_sid)
            environ["wsgi.input"] = _Body(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    async def _handle_request(self, request: web.Request) -> web.StreamResponse:
        """Any request to Engine.IO. A client sends one body at a time; two would pass by the pauses, and each other."""
        if (origin := request.headers.get("Origin")) and not self._origin_allowed(
            origin, {"HTTP_HOST": request.headers.get("Host")}
        ):
            raise web.HTTPBadRequest(text="Not an origin that may connect")  # Engine.IO would quote it
        eio_sid = _session_of(request)
        if request.method != "POST" or eio_sid is None or eio_sid not in self.eio.sockets:
            return cast(web.StreamResponse, await self._of_engineio(request))
        if eio_sid in self._posting:
            await self.close(eio_sid)
            raise web.HTTPBadRequest(text="One request at a time")
        self._posting.add(eio_sid)
        try:
            return cast(web.StreamResponse, await self._of_engineio(request))
        finally:
            self._posting.discard(eio_sid)

    async def _body(self, request: web.Request, eio_sid: str | None) -> bytes:
        """The frames of a polling request that are such. Raises the HTTP errors for a body that is none."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise web.HTTPUnsupportedMediaType(text="Not compressed, please")
        limit = self.eio.max_http_buffer_size
        if (request.content_length or 0) > limit:
            self.too_large()
            raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0, text="Too large")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw = await request.content.read(limit + 1)
                while len(raw) <= limit and (more := await request.content.read(limit + 1 - len(raw))):
                    raw += more
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="The body did not arrive") from None
        if len(raw) > limit:
            self.too_large()
            raise web.HTTPRequestEntityTooLarge(limit, len(raw), text="Too large")
        try:
            frames = raw.decode().split("\x1e") if raw else []
        except UnicodeDecodeError:
            raise web.HTTPBadRequest(text="Not UTF-8") from None
        if len(frames) > packets.PACKETS_PER_POST:
            raise web.HTTPBadRequest(text="Too many packets")
        good, pongs = [], 0
        for frame in frames:
            try:
                packets.check_frame(frame, polling=True)
                pongs += frame == packets.PONG
                if pongs > packets.PONGS_PER_POST:
                    raise Malformed("Too many pongs")
                good.append(frame)
            except Malformed as error:
                if eio_sid is not None and eio_sid in self.eio.sockets:
                    await self.garbage(eio_sid, str(error))
        return "\x1e".join(good).encode()


class Clients(socketio.AsyncManager):  # type: ignore[misc]  # untyped
    """Who is connected, in one room. A room of its own for each would make leaving as dear as there are clients."""

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        sid: str = self.server.eio.generate_id()
        try:
            self.basic_enter_room(sid, namespace, None, eio_sid=eio_sid)
        except ValueDuplicationError:
            return None  # connected already
        self.pending_connect.setdefault(namespace, []).append(sid)
        return sid


def _session_of(request: web.Request) -> str | None:
    """The session that a request names, as Engine.IO reads it: an empty name is none."""
    return parse_qs(request.query_string).get("sid", [None])[0]


def _is_there(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


class _Body:
    """A body that has been read, to be read once more."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, _length: int) -> bytes:
        return self._body


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """A logger for the libraries: what clients do wrong is no error of ours, and payloads do not go into logs.

    Only what they log with a traceback stays an error: with checked input that is a defect.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if kwargs.get("exc_info"):
            self.logger.error(msg, *args, **kwargs)
        elif level >= logging.ERROR:
            self.logger.debug(msg, *args)


def origin_check(allowed: tuple[str, ...]) -> Callable[[str | None, dict[str, Any]], bool]:
    """Whether a browser may come from where it says: from ``allowed`` (``*``: anywhere) or from this host itself."""

    def check(origin: str | None, environ: dict[str, Any]) -> bool:
        if origin is None or "*" in allowed or origin in allowed:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        host = environ.get("HTTP_HOST")
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == str(host).lower()

    return check
