"""Reach the parts of aiohttp that are not public. No other module of the services does.

aiohttp's version is pinned exactly; `tests/unit/gateway/test_compat.py` names what an upgrade takes away.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.web_protocol import RequestHandler

__all__ = [
    "PRIVATE", "DetachableResponse", "HttpConnection", "HttpRunner", "WebSocketDataQueue", "WebSocketReader", "detach",
    "has_fields", "has_messages", "listening_sockets",
]  # fmt: skip

PRIVATE: Final[dict[str, dict[str, str]]] = {
    "AppRunner": {
        "_make_server": "the only place where the class of a connection can be chosen",
    },
    "Server": {
        "_loop": "an argument of each connection",
        "_kwargs": "the options of each connection",
    },
    "RequestHandler": {
        "_message_tail": "bytes that were read behind a websocket's handshake",
        "_reading_paused": "reading is paused for a body that waits",
        "_buffer_paused": "reading is paused for a message that waits",
        "_keepalive_handle": "the timer that closes an idle connection",
        "_next_keepalive_close_time": "when that timer closes it",
        "_process_keepalive": "what that timer calls",
        "_loop": "the event loop of that timer",
    },
    "WebSocketResponse": {
        "_post_start": "makes the reader that aiohttp keeps for a websocket",
    },
    "TCPSite": {
        "_server": "the asyncio server, which has the listening sockets",
    },
    "WebSocketDataQueue": {
        "_size": "the pure Python queue reads it before it is initialized",
        "_buffer": "the messages that wait; the queue has no method that tells whether it is empty",
    },
}
"""Class → attribute → why it is used. Modules: ``aiohttp._websocket.reader``, the websocket parser in C."""


class HttpConnection(RequestHandler):
    """One HTTP connection of aiohttp's server, made by an :class:`HttpRunner`."""

    __slots__ = ()

    def __init__(self, server: web.Server) -> None:
        super().__init__(server, loop=server._loop, **server._kwargs)

    def limit_first_request(self, seconds: float) -> None:
        """Close the connection unless the head of a request arrives in time. Call it once it is made.

        aiohttp applies its keepalive timeout to later requests only.
        """
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + seconds
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)


class HttpRunner(web.AppRunner):
    """Run ``app`` with connections of our own. ``connect`` returns one for a server of aiohttp."""

    def __init__(
        self, app: web.Application, connect: Callable[[web.Server], HttpConnection], **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._connect = connect

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._connect)


class _Server(web.Server):
    """A copy of aiohttp's server that makes connections with ``connect``."""

    def __init__(self, made: web.Server, connect: Callable[[web.Server], HttpConnection]) -> None:
        super().__init__(
            made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs
        )
        self._connect = connect

    def __call__(self) -> RequestHandler:
        return self._connect(self)


def listening_sockets(site: web.TCPSite) -> list[socket.socket]:
    """Return the sockets on which a started site listens."""
    return list(cast(asyncio.Server, site._server).sockets)


class DetachableResponse(web.WebSocketResponse):
    """The response to a websocket handshake after which :func:`detach` can take the connection from aiohttp."""

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        """Make no reader. Bytes that arrive stay where the HTTP parser leaves them."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing: the websocket goes on after aiohttp is done with the request."""


def detach(request: web.Request, to: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
    """Give the connection of a request to another protocol. Return its transport, and bytes that were read of it.

    Raises ``ConnectionResetError`` if the client has disconnected.
    """
    handler = request.protocol
    transport = handler.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    read, handler._message_tail = handler._message_tail, b""
    handler.transport = None  # which it would close
    transport.set_protocol(to)
    if handler._reading_paused or handler._buffer_paused:
        transport.resume_reading()
    handler.connection_lost(None)
    return transport, read


def has_fields(queue: WebSocketDataQueue) -> bool:
    """Return True if the parser may use a queue that is not initialized: that in C may, that in Python may not."""
    return hasattr(queue, "_size")


def has_messages(queue: WebSocketDataQueue) -> bool:
    """Return True if messages wait in an initialized queue."""
    return bool(queue._buffer)
