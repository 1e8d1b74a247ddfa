"""The HTTP server under everything: who may connect at all, how long a request may take to arrive, what errors say.

aiohttp waits an hour for the first request of a connection, tells which version of it answers, quotes what it could not
read, and writes a traceback about it into the log. It builds on the inner workings of an exactly pinned version.
"""

import asyncio
import socket
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from services.gateway.limits.connection_limits import ConnectionLimits
from shared.observability import logs, response_headers

log = logs.get(__name__)

HEADERS_SECONDS = 10.0
"""How long the head of the first request may take."""
IDLE_SECONDS = 75.0
"""How long a connection may wait for another request, its head included: longer than load balancers keep one open."""
SOCKETS_PER_CONNECTION = 4
"""Bare connections to a connection of Engine.IO: who polls has two or more, and one on its way to a websocket."""
UNSENT_BYTES = 128 * 1024
"""What the kernel keeps for a client that takes nothing, where it can be told so. Unasked it keeps some megabytes."""


class HttpServer(web.AppRunner):
    """Runs ``app``. Connections of the network are counted by ``connections``."""

    def __init__(self, app: web.Application, connections: ConnectionLimits) -> None:
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=2.0,
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,  # nobody has a use for it but those who send a little that becomes a lot
        )
        self._of = connections

    async def listen(self, host: str, port: int, *, backlog: int) -> web.TCPSite:
        """Take connections from now on. Raises ``OSError`` for a port that is taken."""
        site = web.TCPSite(self, host, port, backlog=backlog)
        await site.start()
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
            for listening in cast(asyncio.Server, site._server).sockets:  # connections inherit it
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        return site

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self._of)


class _Server(web.Server):
    """As aiohttp made it, with our own connections."""

    def __init__(self, made: web.Server, connections: ConnectionLimits) -> None:
        super().__init__(
            made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs
        )
        self.counted = connections

    def __call__(self) -> RequestHandler:
        return _Connection(self)


class _Connection(RequestHandler):
    """One connection of the network."""

    __slots__ = ("_address", "_counted")

    def __init__(self, server: _Server) -> None:
        super().__init__(server, loop=server._loop, **server._kwargs)
        self._counted = server.counted
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        remote = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._counted.admit(remote, SOCKETS_PER_CONNECTION):
            # An answer would cost more than it tells. (uvloop's transports are no asyncio.Transport.)
            cast(asyncio.Transport, transport).abort()
            return
        self._address = remote
        super().connection_made(transport)
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + HEADERS_SECONDS
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._address is not None:
            self._counted.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone: no defect, and nobody to tell
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        log.debug("not a request", why=type(exc).__name__)
        answer = web.Response(status=status, text="Bad request\n")
        answer.force_close()
        response_headers.harden(answer)
        return answer
