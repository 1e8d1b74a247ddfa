"""A reverse proxy between clients and one gateway that loses requests and answers, as a load balancer in trouble."""

import asyncio
from collections import Counter, deque
from typing import Literal

import aiohttp
from aiohttp import web

Fault = Literal["502", "502-lost", "reset", "reset-lost", "hang"]
"""What becomes of a request. ``lost``: the gateway has got it, and its answer is lost. ``hang``: no answer at all."""

_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "host"}


class HttpProxy:
    """Passes HTTP requests and websockets on to ``port``; :meth:`fail` says what becomes of the next ones."""

    def __init__(self, port: int) -> None:
        self._to = f"http://127.0.0.1:{port}"
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None
        self._faults: dict[str, deque[Fault]] = {"GET": deque(), "POST": deque()}
        self.bodies: list[bytes] = []
        """What was posted."""
        self.failed: Counter[str] = Counter()
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        self._http = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=10_000_000)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop, and break what is open."""
        assert self._runner is not None and self._http is not None
        await self._runner.cleanup()
        await self._http.close()

    def fail(self, method: str, *faults: Fault) -> None:
        """The next requests of that method end so, one after the other."""
        self._faults[method].extend(faults)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request)
        body = await request.read()
        if request.method == "POST":
            self.bodies.append(body)
        faults = self._faults.get(request.method)
        fault = faults.popleft() if faults and "sid=" in request.query_string else None
        if fault is not None:
            self.failed[fault] += 1
        answer = None
        if fault is None or fault.endswith("lost"):
            answer = await self._pass_on(request, body)
        if fault == "hang":
            await asyncio.sleep(60)
        if fault is not None and fault.startswith("reset"):
            assert request.transport is not None
            request.transport.abort()
        if fault is not None or answer is None:
            return web.Response(status=502, text="<h1>Bad gateway</h1>")
        return answer

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        assert self._http is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        async with self._http.request(
            request.method, self._to + request.path_qs, data=body, headers=headers
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        assert self._http is not None
        theirs = web.WebSocketResponse(autoclose=False)
        async with self._http.ws_connect(self._to + request.path_qs) as ours:
            await theirs.prepare(request)

            async def carry(
                source: "web.WebSocketResponse | aiohttp.ClientWebSocketResponse",
                sink: "web.WebSocketResponse | aiohttp.ClientWebSocketResponse",
            ) -> None:
                async for message in source:
                    await sink.send_str(message.data)

            ways = [asyncio.create_task(carry(*pair)) for pair in ((theirs, ours), (ours, theirs))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await theirs.close()
        return theirs
