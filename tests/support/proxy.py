"""A bad network between clients and one gateway: a TCP proxy that cuts, swallows, delays and trickles."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

CHUNK_BYTES = 16 * 1024
LINE_CHUNKS = 64
"""Chunks on their way in one direction of a connection; who sends more has to wait."""
KERNEL_BYTES = 256 * 1024
"""Asked of the kernel for each buffer of the proxy's sockets, so that a side that does not read is soon felt."""
CONNECT_SECONDS = 5.0
STOP_SECONDS = 5.0

_NO_LINGER = struct.pack("ii", 1, 0)
_End = ConnectionError | None
"""How a direction ends: broken, or (``None``) with nothing more to come."""


class Proxy:
    """Takes connections on a port of its own and carries each to ``port`` of the loopback.

    :meth:`cut` and :meth:`half_open` strike the connections that there are, :meth:`delay` and :meth:`trickle` also
    those to come. What is slow already may be struck as well.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._defects: list[BaseException] = []
        self.opened = 0
        """Connections taken so far."""
        self.delay_seconds = 0.0
        self.trickle_bytes = 0
        """The largest piece that is passed on; 0 for any size."""
        self.trickle_seconds = 0.0

    # --- life ---

    async def start(self) -> None:
        """Listen on a free port."""
        listener = _socket()
        listener.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._take, sock=listener, limit=CHUNK_BYTES)

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._links:
            task.cancel()
        if self._links:
            await asyncio.wait(self._links, timeout=STOP_SECONDS)
        assert not self._links, "connections outlive their proxy"
        assert not self._defects, self._defects

    @property
    def url(self) -> str:
        """Where clients find the gateway, through this proxy."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    # --- faults ---

    def cut(self) -> None:
        """Reset every connection, on both sides; what was on its way is lost."""
        for link in self._links.values():
            link.cut()

    def half_open(self) -> None:
        """Carry nothing more on any connection, and close none: not even that one side has gone is passed on."""
        for link in self._links.values():
            link.carrying.clear()

    def delay(self, seconds: float) -> None:
        """From now on everything arrives that much later, in each direction, in order."""
        self.delay_seconds = seconds

    def trickle(self, size: int, every: float) -> None:
        """From now on ``size`` bytes pass every ``every`` seconds, in each direction of each connection."""
        self.trickle_bytes, self.trickle_seconds = size, every

    # --- carrying ---

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        link = _Link(self, reader, writer)
        task = asyncio.create_task(link.run(self._to))
        self._links[task] = link
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._links[task]
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._defects.append(defect)


class _Link:
    """One connection of a client, and the one to the gateway that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self.carrying = asyncio.Event()
        self.carrying.set()

    async def run(self, port: int) -> None:
        """Carry in both directions until both are over, or one is broken."""
        client = self._writers[0]
        try:
            upstream = _socket()
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(upstream, ("127.0.0.1", port))
            except BaseException:
                upstream.close()
                raise
            reader, gateway = await asyncio.open_connection(sock=upstream, limit=CHUNK_BYTES)
            self._writers.append(gateway)
            async with asyncio.TaskGroup() as pumps:
                for source, sink in ((self._reader, gateway), (reader, client)):
                    sink.transport.set_write_buffer_limits(high=CHUNK_BYTES)
                    line: asyncio.Queue[tuple[float, bytes | _End]] = asyncio.Queue(LINE_CHUNKS)
                    pumps.create_task(self._read(source, line))
                    pumps.create_task(self._write(line, sink))
        except* OSError:  # a side is broken or was never there, which the other one is to feel
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            if not writer.transport.is_closing():
                # Without this the kernel says goodbye like somebody who means to go.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                writer.transport.abort()

    async def _read(
        self, source: asyncio.StreamReader, line: "asyncio.Queue[tuple[float, bytes | _End]]"
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            item: bytes | _End
            try:
                item = await source.read(CHUNK_BYTES) or None
            except ConnectionError as broken:
                item = broken
            # A break takes its place in the line, so that a half-open connection keeps that to itself too.
            await line.put((now() + self._proxy.delay_seconds, item))
            if not isinstance(item, bytes):
                return

    async def _write(
        self, line: "asyncio.Queue[tuple[float, bytes | _End]]", sink: asyncio.StreamWriter
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, item = await line.get()
            if (wait := due - now()) > 0:
                await asyncio.sleep(wait)
            await self.carrying.wait()
            if not isinstance(item, bytes):
                if item is not None:
                    raise item
                with contextlib.suppress(OSError):
                    sink.write_eof()
                return
            for piece in self._pieces(item):
                sink.write(piece)
                await sink.drain()
                if self._proxy.trickle_bytes:
                    await asyncio.sleep(self._proxy.trickle_seconds)
                await self.carrying.wait()

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
        """A chunk in the pieces that pass at once; the proxy may become slow, or quick, in the middle of it."""
        start = 0
        while start < len(chunk):
            size = self._proxy.trickle_bytes or len(chunk)
            yield chunk[start : start + size]
            start += size


def _socket() -> socket.socket:
    # With the protocol named, asyncio turns Nagle's algorithm off.
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    one.setblocking(False)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        one.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BYTES)
    return one
