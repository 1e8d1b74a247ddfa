"""The writing half of a websocket: each turn's frames together, as far as its client reads."""

import asyncio
from enum import Enum, auto

from aiohttp import WSCloseCode
from engineio.packet import PING, Packet

from services.gateway.compat.engineio_compat import Connection
from services.gateway.websocket.framing import TEXT, Writing, framed
from services.gateway.websocket.send_queue import SendQueue, Waiting

UNWRITTEN_BYTES = 32 * 1024
"""What may wait in a connection before the rest waits for it, and counts as not read by the client."""


class Stage(Enum):
    """How far a websocket is. In :attr:`PROBING` and :attr:`UPGRADING` its client polls yet."""

    PROBING = auto()
    UPGRADING = auto()
    OPEN = auto()
    CLOSING = auto()
    """Our close frame is out: nothing is heard but the client's."""


_OPEN = Stage.OPEN  # looking up a member of an enumeration costs more than all else that write() compares


class Outlet(asyncio.Protocol):
    """Writes frames of one connection, in order, each turn's together."""

    __slots__ = (
        "_connection", "_flushed", "_full", "_out", "_out_size", "_queue", "_stage", "_transport", "_writing",
    )  # fmt: skip

    def __init__(self, connection: Connection, stage: Stage, writing: Writing) -> None:
        self._connection = connection
        self._queue: SendQueue = connection.queue
        self._stage = stage
        self._transport: asyncio.Transport | None = None
        self._full = False
        """Whether the client does not read what is written."""
        self._writing = writing
        self._out: list[bytes] = []
        self._out_size = 0
        self._flushed = 0
        """Bytes that the transport has been given."""

    def write(self, data: bytes) -> bool:
        """Write one frame at the end of this turn of the event loop; whether that was possible.

        If not, because the client does not read, it is to wait in the queue.
        """
        if self._full or self._stage is not _OPEN or self._queue.items or self._connection.closed:
            return False
        return self._put(TEXT, data)

    def pump(self) -> None:
        """Write what waits in the queue, as far as the client reads."""
        queue = self._queue
        while self._stage is _OPEN and not (self._full or self._transport is None or queue.empty()):
            packet = queue.take()
            queue.task_done()
            if packet is None:
                self._close()
            elif isinstance(packet, Waiting):
                self._put(TEXT, packet.frame())
            else:
                self._put(TEXT, packet.encode().encode())
                if packet.packet_type == PING:
                    self._queue.pinged(self._flushed + self._out_size)

    def ping(self) -> None:
        """Send a ping, behind what waits. See :meth:`_answers` for what counts as its answer."""
        if self.write(b"2"):
            self._queue.pinged(self._flushed + self._out_size)
        else:
            self._queue.put_nowait(Packet(PING))

    def _answers(self) -> bool:
        """Return True if a pong answers a ping that has left for the client: a client cannot answer what is still here.

        Call it once for each pong.
        """
        transport = self._transport
        return self._queue.ponged(
            self._flushed - transport.get_write_buffer_size() if transport is not None else 0
        )

    def flush(self) -> None:
        """Write the frames of this turn: together, because a system call costs more than all else about them."""
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        self._flushed += self._out_size
        self._out_size = 0
        out.clear()

    def abort(self) -> None:
        """End it now, unread data included."""
        if self._transport is not None:
            self._transport.abort()

    def _put(self, kind: int, data: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        frame = framed(kind, data)
        out = self._out
        if not out:
            self._writing.add(self)
        out.append(frame)
        self._out_size += len(frame)
        if self._out_size > UNWRITTEN_BYTES:
            self.flush()
        return True

    def _close(self, code: int = WSCloseCode.OK) -> None:
        """Say that it is to end: what comes after what waits."""
        raise NotImplementedError

    # --- called by the event loop -----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._full = True
        if self._transport is not None and self._queue.websocket is self:
            self._queue.stalls(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._full = False
        self._queue.moves(self)
        self.pump()
