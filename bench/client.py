"""Connect as a Socket.IO client of little CPU: Engine.IO frames by hand, on picows."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

PATIENCE_SECONDS = 30.0
AT_ONCE = 64
"""Connections and joins under way at the same time."""

OnEvent = Callable[[bytes, bytes], None]
"""Called with the name of an event and the whole frame, ``42["name",{…}]``."""


class ServerError(Exception):
    """Raised if the server refuses something, closes a connection, or does not reply."""


class Socket(WSListener):
    """Connects to one server. ``user``: the user that it joins as."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.on_event: OnEvent = self._settle
        self.closed = False
        self._transport: WSTransport | None = None
        self._expected: dict[bytes, asyncio.Future[bytes]] = {}

    # --- called by picows -----------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        data = frame.get_payload_as_bytes()
        if data.startswith(b'42["'):
            self.on_event(data[4 : data.index(b'"', 4)], data)
        elif data == b"2":
            transport.send(WSMsgType.TEXT, b"3")
        elif data.startswith(b"0{"):
            transport.send(WSMsgType.TEXT, b"40")
        elif data.startswith(b"40"):
            self._settle(b"connect", data)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed = True
        for future in self._expected.values():
            if not future.done():
                future.set_exception(ServerError(f"{self.user}: the server closed the connection"))

    # --- called by modes ------------------------------------------------------------------------------------------

    async def connect(self, url: str) -> None:
        """Open the websocket and the namespace. Raises :class:`ServerError`, ``OSError``."""
        connected = self.expect("connect")
        parts = urlsplit(url)
        address = f"ws://{parts.netloc}/socket.io/?EIO=4&transport=websocket"
        await ws_connect(lambda: self, address, websocket_handshake_timeout=PATIENCE_SECONDS)
        await wait(connected, f"{self.user}: connect")

    async def join(self) -> None:
        """Send ``user:join``, and wait for ``user:joined``. Raises :class:`ServerError`."""
        await self.ask("user:join", {"userId": self.user}, "user:joined")

    async def ask(self, event: str, payload: dict[str, Any], answer: str) -> Any:
        """Send an event and wait for another, whose payload is returned. Raises :class:`ServerError`."""
        future = self.expect(answer)
        self.send(frame(event, payload))
        return payload_of(await wait(future, f"{self.user}: {answer}"))

    def expect(self, event: str) -> "asyncio.Future[bytes]":
        """Return a future of the next frame of an event. Call it before what causes the event."""
        future = asyncio.get_running_loop().create_future()
        self._expected[event.encode()] = future
        return future

    def send(self, data: bytes) -> None:
        """Send a frame."""
        assert self._transport is not None
        self._transport.send(WSMsgType.TEXT, data)

    def drop(self) -> None:
        """Close the connection without a close frame."""
        assert self._transport is not None
        self._transport.disconnect(graceful=False)

    def _settle(self, name: bytes, data: bytes) -> None:
        future = self._expected.pop(name, None)
        if future is not None and not future.done():
            future.set_result(data)
        elif name == b"error":
            error = ServerError(f"{self.user}: {data[:300].decode(errors='replace')}")
            for waiting in self._expected.values():
                if not waiting.done():
                    waiting.set_exception(error)


async def wait(future: "asyncio.Future[bytes]", what: str) -> bytes:
    """Return the result of a future. Raises :class:`ServerError` with ``what`` after the time limit."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await future
    except TimeoutError:
        raise ServerError(f"no answer within {PATIENCE_SECONDS:.0f} s: {what}") from None


def frame(event: str, payload: dict[str, Any]) -> bytes:
    """Return the frame of an event."""
    return b"42" + json.dumps([event, payload], separators=(",", ":")).encode()


def payload_of(data: bytes) -> Any:
    """Return the payload of an event."""
    return json.loads(data[2:])[1]


async def connect_all(sockets: Iterable[Socket], urls: list[str]) -> None:
    """Connect sockets, alternating between the servers. Raises what :meth:`Socket.connect` raises."""
    todo = [(socket, urls[i % len(urls)]) for i, socket in enumerate(sockets)]
    await a_few_at_a_time([partial(socket.connect, url) for socket, url in todo])


async def join_all(sockets: Iterable[Socket]) -> None:
    """Join sockets. Raises :class:`ServerError`."""
    await a_few_at_a_time([socket.join for socket in sockets])


async def a_few_at_a_time(jobs: Sequence[Callable[[], Awaitable[None]]], count: int = AT_ONCE) -> None:
    """Run all of them, ``count`` at a time. Raises what they raise."""
    rest = iter(jobs)

    async def work() -> None:
        for job in rest:
            await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(work())
