"""Answer a websocket's handshake with aiohttp, then take the connection away from it.

What aiohttp keeps for a websocket (its HTTP parser, the request with its headers, two tasks and a dozen coroutines) is
most of the memory of an idle client, and waking its task most of what reading a frame costs.
"""

import asyncio

from aiohttp import web

from services.gateway.compat import aiohttp_compat


class Handshake(aiohttp_compat.DetachableResponse):
    """The response to a websocket's request. Nothing of it is used once :meth:`hand_over` has returned."""

    async def hand_over(self, request: web.Request, to: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Answer the request and give its connection to ``to``. Return the transport, and bytes read of it already.

        Raises aiohttp's HTTP errors for a request that is no handshake, ``ConnectionError`` if the client is gone.
        """
        await self.prepare(request)
        return aiohttp_compat.detach(request, to)
