"""A client without a library, for what libraries will not send: frames of text over an Engine.IO websocket."""

import asyncio
import itertools
import json
import time
from typing import Any

import aiohttp

from tests.support.client import WEBSOCKET, Client
from tests.support.inbox import PATIENCE_SECONDS

_EVENT, _ACK = "42", "43"


class RawClient(Client):
    """Speaks Engine.IO 4 and Socket.IO 5 by hand. ``NaN`` and lone surrogates go out as they are."""

    def __init__(self, name: str, *, stubborn: bool = False, headers: dict[str, str] | None = None) -> None:
        """``stubborn``: stays when it is told to go. ``headers``: of its handshake."""
        super().__init__(name, WEBSOCKET)
        self._stubborn = stubborn
        self._headers = headers
        self._http: aiohttp.ClientSession | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._connected: asyncio.Future[str] | None = None
        self._socket_id = ""
        self.heard_at = time.monotonic()
        """When it last heard anything, pings included."""

    @property
    def socket_id(self) -> str:
        return self._socket_id

    async def open(self, url: str) -> None:
        """Open the transport; no namespace is connected yet."""
        if self._http is not None:
            await self._http.close()
        self._http = aiohttp.ClientSession()
        self._connected = asyncio.get_running_loop().create_future()
        address = f"{url}/socket.io/?EIO=4&transport=websocket"
        self._ws = await self._http.ws_connect(address, max_msg_size=0, compress=0, headers=self._headers)
        self._reader = asyncio.create_task(self._read())

    async def connect(self, url: str) -> None:
        self.closed.clear()
        await self.open(url)
        await self.send("40" + ("" if self.auth is None else json.dumps(self.auth)))
        assert self._connected is not None
        self._socket_id = await asyncio.wait_for(self._connected, PATIENCE_SECONDS)

    async def send(self, frame: str | bytes) -> None:
        """Send one frame as it is; nothing happens if the socket is closed."""
        assert self._ws is not None
        try:
            if isinstance(frame, str):
                await self._ws.send_str(frame)
            else:
                await self._ws.send_bytes(frame)
        except (ConnectionError, aiohttp.ClientError):
            self.closed.set()

    async def emit(self, event: str, *args: Any) -> None:
        await self.send(_EVENT + json.dumps([event, *args]))

    async def ask(self, event: str, *args: Any, timeout: float = PATIENCE_SECONDS) -> Any:
        return await self.ask_text(event, *(json.dumps(arg) for arg in args), timeout=timeout)

    async def ask_text(self, event: str, *args: str, timeout: float = PATIENCE_SECONDS) -> Any:
        """Send arguments that are JSON, more or less, already. Raises ``ConnectionError`` if the socket is closed."""
        id_ = next(self._numbers)
        answer = self._answers[id_] = asyncio.get_running_loop().create_future()
        await self.send(f"{_EVENT}{id_}[{','.join((json.dumps(event), *args))}]")
        closed = asyncio.create_task(self.closed.wait())
        done, _ = await asyncio.wait({answer, closed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if answer.done():
            return answer.result()
        if done:
            raise ConnectionError(f"{self.name} was closed")
        raise AssertionError(f"{self.name}: {event} {str(args)[:100]} is not acknowledged in {timeout} s")

    async def burst(self, event: str, template: dict[str, Any], field: str, count: int) -> None:
        for n in range(count):
            await self.emit(event, {**template, field: {**template[field], "n": n}})

    async def disconnect(self) -> None:
        await self.send("41")
        await self.close()

    async def tear(self) -> None:
        assert self._ws is not None
        connection = self._ws._response.connection
        if connection is not None and connection.transport is not None:  # the server may have closed it
            connection.transport.abort()

    async def close(self) -> None:
        """Close the transport."""
        try:
            if self._ws is not None:
                await self._ws.close()
            if self._reader is not None:
                await asyncio.gather(self._reader, return_exceptions=True)
        finally:
            if self._http is not None:
                await self._http.close()
            self.closed.set()

    async def _read(self) -> None:
        assert self._ws is not None
        async for message in self._ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._take(message.data)
        self.closed.set()

    async def _take(self, frame: str) -> None:
        self.heard_at = time.monotonic()
        if frame == "2":
            await self.send("3")
        elif frame == "1" and not self._stubborn:
            assert self._ws is not None
            await self._ws.close()
        elif frame.startswith("40") and self._connected is not None and not self._connected.done():
            self._connected.set_result(json.loads(frame[2:])["sid"])
        elif frame.startswith(_EVENT):
            event, *args = json.loads(frame[2:])
            self.inbox.put(event, args[0] if args else None)
        elif frame.startswith(_ACK):
            start = frame.index("[")
            answer = self._answers.pop(int(frame[2:start]), None)
            if answer is not None and not answer.done():
                args = json.loads(frame[start:])
                answer.set_result(args[0] if args else None)
