"""A websocket's handshake by aiohttp, after which the connection is no longer aiohttp's.

What aiohttp keeps for a websocket (its HTTP parser, the request with its headers, two tasks and a dozen coroutines) is
most of the memory of an idle client, and waking its task most of what reading a frame costs.
"""

import asyncio
from typing import Any

from aiohttp import web


class Handshake(web.WebSocketResponse):
    """The answer to a websocket's request. Nothing of it is used once :meth:`hand_over` has been called."""

    async def hand_over(self, request: web.Request, to: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Answer, and give the connection to a protocol: it, and what has been read of it already.

        Raises aiohttp's HTTP errors for a request that is no handshake, ``ConnectionError`` if the client is gone.
        """
        await self.prepare(request)
        protocol = request.protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        read, protocol._message_tail = protocol._message_tail, b""
        protocol.transport = None  # which it would close
        transport.set_protocol(to)
        if protocol._reading_paused or protocol._buffer_paused:
            transport.resume_reading()
        protocol.connection_lost(None)
        return transport, read

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        """No reader of its own: what comes waits where the HTTP parser leaves it."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the websocket goes on."""
