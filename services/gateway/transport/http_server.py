"""Serve HTTP: count TCP connections, bound the time of a first request, and answer errors without details.

aiohttp alone waits an hour for the first request of a connection. It names its version in the answer, quotes what it
could not read, and logs a traceback about it.
"""

import asyncio
import socket
from typing import cast

from aiohttp import web

from services.gateway.compat import aiohttp_compat
from services.gateway.limits.connection_limits import ConnectionLimits
from shared.observability import logs, response_headers

log = logs.get(__name__)

HEADERS_SECONDS = 10.0
"""Time limit of the head of the first request."""
IDLE_SECONDS = 75.0
"""Time for which a connection may be idle between requests: longer than load balancers keep one open."""
SOCKETS_PER_CONNECTION = 4
"""TCP connections for each connection of Engine.IO: a client that polls has two or more, and one for its upgrade."""
UNSENT_BYTES = 128 * 1024
"""Bytes that the kernel keeps for a client that does not read, where that can be set. Its default is megabytes."""


class HttpServer(aiohttp_compat.HttpRunner):
    """Run ``app`` over HTTP. TCP connections are counted by ``connections``."""

    def __init__(self, app: web.Application, connections: ConnectionLimits) -> None:
        super().__init__(
            app,
            lambda server: _Connection(server, connections),
            access_log=None,
            shutdown_timeout=2.0,
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,  # a small body could become a large one
        )

    async def listen(self, host: str, port: int, *, backlog: int) -> web.TCPSite:
        """Accept connections from now on. Raises ``OSError`` for a port that is taken."""
        site = web.TCPSite(self, host, port, backlog=backlog)
        await site.start()
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
            for listening in aiohttp_compat.listening_sockets(site):  # connections inherit it
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        return site


class _Connection(aiohttp_compat.HttpConnection):
    """One TCP connection: counted, and closed if its first request does not arrive in time."""

    __slots__ = ("_address", "_counted")

    def __init__(self, server: web.Server, counted: ConnectionLimits) -> None:
        super().__init__(server)
        self._counted = counted
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        remote = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._counted.admit(remote, SOCKETS_PER_CONNECTION):
            # An answer would cost more than it is worth. (uvloop's transports are no asyncio.Transport.)
            cast(asyncio.Transport, transport).abort()
            return
        self._address = remote
        super().connection_made(transport)
        self.limit_first_request(HEADERS_SECONDS)

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
            raise exc  # the client is gone: no defect, and no client to answer
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        log.debug("not a request", why=type(exc).__name__)
        answer = web.Response(status=status, text="Bad request\n")
        answer.force_close()
        response_headers.harden(answer)
        return answer
