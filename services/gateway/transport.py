"""The Socket.IO server: python-socketio's, with our own reading of what clients send.

python-socketio stays in charge of handshakes, polling, the namespace and the lifecycle. Everything that reads bytes
of a client is here, in ``packets`` and in ``websocket``, so that garbage is refused and never ends in a log.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import engineio
import socketio
from aiohttp import web
from engineio.async_drivers import aiohttp as driver
from engineio.payload import Payload

from services.gateway.limits import Strikes
from services.gateway.link import Link
from services.gateway.packets import BadPacket, Frame, Kind, Packet, frame_of, parse
from services.gateway.settings import Settings
from services.gateway.websocket import WebSocket
from shared import logs

log = logs.get(__name__)

_SEPARATOR = "\x1e"
_PACKETS_MAX = 4_096
"""Engine.IO packets in one polling request; a JavaScript client is only bound by bytes."""
_BODY_SECONDS = 10.0


class Handler(Protocol):
    """What the gateway does with clients."""

    def arrived(self, link: Link) -> None:
        """A transport is open; the client may never say anything."""

    async def event(self, link: Link, packet: Packet) -> None:
        """The client sent an event. The next one waits until this is done."""

    def garbage(self, link: Link, error: BadPacket) -> None:
        """The client sent what is no event."""

    def left(self, link: Link, *, on_purpose: bool) -> None:
        """The Socket.IO socket is gone; the transport may still be there."""


class Engine(engineio.AsyncServer):  # type: ignore[misc]  # engineio has no types
    """engineio's server with our driver, and quiet: whatever a client does is no error of ours."""

    refuse: Callable[[str, BadPacket], None]
    attach_abort: Callable[[str, Callable[[], None]], None]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._async = {**self._async, "translate_request": self._translate, "websocket": WebSocket}
        Payload.max_decode_packets = _PACKETS_MAX

    def _log_error_once(self, message: str, message_key: str) -> None:
        log.debug("request refused", reason=message_key)

    async def _translate(self, request: web.Request) -> dict[str, Any]:
        if "j" in request.query:
            raise web.HTTPBadRequest(text="JSONP is not supported")
        environ: dict[str, Any] = driver.translate_request(request)
        if request.method == "POST":
            sid = request.query.get("sid", "")
            body = self._sift(sid, await self._body(request)) if sid in self.sockets else b""
            environ["wsgi.input"] = _Body(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    async def _body(self, request: web.Request) -> str:
        most: int = self.max_http_buffer_size
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise web.HTTPRequestEntityTooLarge(most, len(body))
            return body.decode()
        except (TimeoutError, UnicodeDecodeError, web.PayloadAccessError, OSError):
            raise web.HTTPBadRequest(text="Malformed body") from None

    def _sift(self, sid: str, body: str) -> bytes:
        """What engineio may see of a polling request: it would decode JSON, and log what it cannot."""
        frames = body.split(_SEPARATOR)
        if not body or len(frames) > _PACKETS_MAX:
            raise web.HTTPBadRequest(text="Malformed body")
        good = []
        for text in frames:
            try:
                frame = frame_of(text)
            except BadPacket as error:
                self.refuse(sid, error)
                continue
            if frame is Frame.MESSAGE:
                good.append(text)
            elif frame is not Frame.IGNORED:
                good.append(frame.value)
        return _SEPARATOR.join(good).encode()


class _Body:
    """A body that has been read, as engineio wants to read it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, _: int) -> bytes:
        return self._body


class Server(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio has no types
    """The Socket.IO server of this gateway. Attach it to an application, then set ``handler``."""

    handler: Handler
    eio: Engine

    def __init__(self, settings: Settings) -> None:
        self._origins = settings.client_url
        self._strikes_max = settings.strikes_max
        self.links: dict[str, Link] = {}
        """By Engine.IO id."""
        super().__init__(
            async_mode="aiohttp",
            async_handlers=False,  # in order
            logger=logging.getLogger("socketio.server"),
            engineio_logger=logging.getLogger("engineio.server"),
            cors_allowed_origins="*" if "*" in self._origins else self._allowed,
            ping_interval=settings.ping_interval_seconds,
            ping_timeout=settings.ping_timeout_seconds,
            max_http_buffer_size=settings.max_frame_kb * 1024,
            http_compression=False,
            cookie=None,
        )
        self.eio.refuse = self._refuse
        self.eio.attach_abort = self._attach_abort
        self.on("connect", self._connected)
        self.on("disconnect", self._disconnected)

    async def shutdown(self) -> None:
        """Disconnect everybody."""
        links = list(self.links.values())
        for link in links:
            link.close()
        await asyncio.gather(*(link.closed() for link in links))
        await super().shutdown()

    # --- what python-socketio asks and tells ---

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    def _allowed(self, origin: str | None, environ: dict[str, Any]) -> bool:
        host = environ.get("HTTP_HOST", "")
        return origin in self._origins or (bool(host) and origin in (f"http://{host}", f"https://{host}"))

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        # The environment holds the request and all that hangs on it; nobody needs it.
        await super()._handle_eio_connect(eio_sid, {})
        link = self.links[eio_sid] = Link(self.eio.sockets[eio_sid], Strikes(self._strikes_max))
        self.handler.arrived(link)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        if (link := self.links.pop(eio_sid, None)) is not None:
            link.closing = True

    async def _handle_eio_message(self, eio_sid: str, data: str) -> None:
        link = self.links.get(eio_sid)
        if link is None:
            return
        async with link.lock:
            if not link.closing:
                try:
                    await self._packet(eio_sid, link, parse(data))
                except BadPacket as error:
                    self.handler.garbage(link, error)

    async def _packet(self, eio_sid: str, link: Link, packet: Packet) -> None:
        if packet.kind is Kind.EVENT:
            if not link.sid:
                raise BadPacket("Not connected")
            await self.handler.event(link, packet)
        elif packet.kind is Kind.CONNECT:
            await self._handle_connect(eio_sid, packet.namespace, None)
            if packet.namespace != "/":
                raise BadPacket("Unknown namespace")
        elif packet.kind is Kind.DISCONNECT and packet.namespace == "/" and link.sid:
            await self._handle_disconnect(eio_sid, "/", self.reason.CLIENT_DISCONNECT)
        # Acknowledgements: none is ever asked for.

    # --- handlers of the default namespace ---

    def _connected(self, sid: str, _environ: dict[str, Any], _auth: object) -> None:
        self.links[self.manager.eio_sid_from_sid(sid, "/")].sid = sid

    def _disconnected(self, sid: str, reason: str) -> None:
        link = self.links.get(self.manager.eio_sid_from_sid(sid, "/"))
        if link is not None:
            self.handler.left(link, on_purpose=reason == self.reason.CLIENT_DISCONNECT)
            link.sid = ""

    # --- what the engine finds ---

    def _refuse(self, eio_sid: str, error: BadPacket) -> None:
        if (link := self.links.get(eio_sid)) is not None and not link.closing:
            self.handler.garbage(link, error)

    def _attach_abort(self, eio_sid: str, abort: Callable[[], None]) -> None:
        if (link := self.links.get(eio_sid)) is not None:
            link.abort = abort
