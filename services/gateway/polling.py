"""HTTP requests to Engine.IO: which of them it gets to see, with which body."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qs

from aiohttp import web
from engineio.async_drivers import aiohttp as driver
from engineio.payload import Payload

from services.gateway import packets
from services.gateway.connections import Connections
from services.gateway.packets import Malformed
from services.gateway.turns import Doorway

Payload.max_decode_packets = (
    packets.PACKETS_PER_POST
)  # 16 by default, which socket.io-client does not know of

POLLS_LOOK_SECONDS = 1.0
BODY_SECONDS = 10.0
"""How long a polling request may take to bring its body."""
WAITING_MAX = 8_192
"""Connections that may wait to be let in."""


class Server(Protocol):
    """What polling needs of the transport."""

    draining: bool

    async def garbage(self, eio_sid: str, what: str) -> None:
        """A frame that is none."""

    async def close(self, eio_sid: str) -> None:
        """Close a connection."""

    def too_large(self) -> None:
        """A request that has more than one may have."""


class Polling:
    """Stands in front of Engine.IO (``eio``) for requests, also those that are to become websockets."""

    def __init__(
        self,
        eio: Any,
        server: Server,
        origin_allowed: Callable[[str | None, dict[str, Any]], bool],
        connections: Connections,
    ) -> None:
        self._eio = eio
        self._server = server
        self._origin_allowed = origin_allowed
        self._connections = connections
        self._of_engineio: Callable[[web.Request], Awaitable[web.StreamResponse]] = eio.handle_request
        self._doorway = Doorway(WAITING_MAX)
        self._posting: set[str] = set()
        """Connections whose client is sending a polling request."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look after clients that poll, from now on; websockets look after themselves."""
        self._task = asyncio.create_task(self._look_after(), name="polls")

    async def stop(self) -> None:
        """Stop that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_after(self) -> None:
        """Close connections of clients that do not answer pings."""
        while True:
            await asyncio.sleep(POLLS_LOOK_SECONDS)
            for eio_sid, connection in list(self._eio.sockets.items()):
                if connection.closed:
                    self._eio.sockets.pop(eio_sid, None)
                elif not connection.upgraded and not connection.closing:
                    await connection.check_ping_timeout()

    async def translate(self, request: web.Request) -> dict[str, Any]:
        """The environment that Engine.IO wants, with the body of a POST read and checked."""
        environ: dict[str, Any] = driver.translate_request(request)
        eio_sid = _session_of(request)
        if eio_sid is None:
            if self._server.draining:
                raise web.HTTPServiceUnavailable(text="Draining: connect to another server")
            self._connections.check(request)
            if not await self._doorway.through(lambda: _is_there(request)) or self._server.draining:
                raise web.HTTPServiceUnavailable(text="Too many at once", headers={"Retry-After": "1"})
            self._connections.check(request)  # again: others were let in meanwhile
        if request.method == "POST":
            body = await self._body(request, eio_sid)
            environ["wsgi.input"] = _Body(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request to Engine.IO. A client sends one body at a time; two would pass by the pauses, and each other."""
        if (origin := request.headers.get("Origin")) and not self._origin_allowed(
            origin, {"HTTP_HOST": request.headers.get("Host")}
        ):
            raise web.HTTPBadRequest(text="Not an origin that may connect")  # Engine.IO would quote it
        eio_sid = _session_of(request)
        if request.method != "POST" or eio_sid is None or eio_sid not in self._eio.sockets:
            return await self._of_engineio(request)
        if eio_sid in self._posting:
            await self._server.close(eio_sid)
            raise web.HTTPBadRequest(text="One request at a time")
        self._posting.add(eio_sid)
        try:
            return await self._of_engineio(request)
        finally:
            self._posting.discard(eio_sid)

    async def _body(self, request: web.Request, eio_sid: str | None) -> bytes:
        """The frames of a polling request that are such. Raises the HTTP errors for a body that is none."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise web.HTTPUnsupportedMediaType(text="Not compressed, please")
        limit = self._eio.max_http_buffer_size
        if (request.content_length or 0) > limit:
            self._server.too_large()
            raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0, text="Too large")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw = await request.content.read(limit + 1)
                while len(raw) <= limit and (more := await request.content.read(limit + 1 - len(raw))):
                    raw += more
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="The body did not arrive") from None
        if len(raw) > limit:
            self._server.too_large()
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
                if eio_sid is not None and eio_sid in self._eio.sockets:
                    await self._server.garbage(eio_sid, str(error))
        return "\x1e".join(good).encode()


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
