"""Queue packets for a client, and count their bytes and their age: the queue of an Engine.IO connection."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from engineio.packet import MESSAGE, NOOP, Packet

PACKETS_PER_POLL = 16
PACKET_BYTES = 256
"""Memory of a queued packet besides its data."""


class _Truncated:
    """The last item of a queue to which no more packets are added."""

    data = None


TRUNCATED = _Truncated()


class QueueReader(Protocol):
    """The websocket of a client that does not poll."""

    def send_queued(self) -> None:
        """Write what waits."""


class Abortable(Protocol):
    """A network connection, whose buffer keeps bytes for a client that does not read."""

    def abort(self) -> None:
        """End it now, unread data included."""


class QueuedMessage(Packet):  # type: ignore[misc]  # untyped
    """A message that waits, as bytes: as text it may take four times as much memory. ``data``: without its "4"."""

    def __init__(self, data: bytes) -> None:
        super().__init__(MESSAGE)
        self.data = data

    def frame(self) -> bytes:
        """Return the text frame of a websocket."""
        frame: bytes = b"4" + self.data
        return frame

    def encode(self, b64: bool = False) -> str:
        """Return the packet in the answer to a poll."""
        return self.frame().decode()


class UnreadTotal:
    """Count the bytes that wait for all clients of a gateway. ``on_exceeded``: called when they exceed ``limit``."""

    __slots__ = ("limit", "on_exceeded", "size")

    def __init__(self, limit: int | None = None, on_exceeded: Callable[[], None] | None = None) -> None:
        self.size = 0
        self.limit = limit
        self.on_exceeded = on_exceeded

    def add(self, size: int) -> None:
        """Count ``size`` more bytes, or fewer if it is negative."""
        self.size += size
        if size > 0 and self.limit is not None and self.size > self.limit and self.on_exceeded is not None:
            self.on_exceeded()


class SendQueue:
    """Queue packets for one client, bounded by its callers: as much of an ``asyncio.Queue`` as Engine.IO uses.

    An ``asyncio.Queue`` has several deques, which is much for each idle client.
    """

    __slots__ = (
        "_joined", "_last_read", "_packets_of_poll", "_pings", "_poll", "_polls_ended", "_unfinished", "buffered",
        "buffered_by", "buffered_since", "items", "last_pong_at", "size", "total", "websocket",
    )  # fmt: skip

    def __init__(self, total: UnreadTotal | None = None) -> None:
        self.total = total if total is not None else UnreadTotal()
        self.size = 0
        """Bytes that wait here."""
        self.buffered, self.buffered_since = 0, 0.0
        """Bytes in the buffer of a connection whose client does not read, and since when, in loop time."""
        self.buffered_by: Abortable | None = None
        """That connection."""
        self._last_read = 0.0
        """Time at which the client last read a part of what waits, in loop time."""
        self._pings: list[int] | None = None
        """Unanswered pings: each by its end in the bytes written to the websocket."""
        self.last_pong_at: int | None = None
        """Time at which the client last answered a ping, in ms since the epoch; ``None`` before that."""
        self.websocket: QueueReader | None = None
        """The websocket that sends the packets; ``None`` while the client polls."""
        self.items: deque[Any] | None = None
        """Queued packets; ``None`` for an empty queue."""
        self._packets_of_poll = 0
        self._unfinished = 0
        self._poll: asyncio.Future[bool] | None = None
        """The poll that waits; its result is ``False`` if another takes its place."""
        self._joined: asyncio.Event | None = None
        self._polls_ended = False
        """True if polls do not wait."""

    def empty(self) -> bool:
        """Return True if no packet waits that may be sent."""
        return not self.items or self.items[0] is TRUNCATED

    def truncate(self) -> None:
        """Drop all packets that are added from now on, but for the end: no packet may follow a gap.

        A client that reads on gets what waits, and then nothing until its connection is closed. It resumes from there.
        """
        if self.items is None:
            self.items = deque()
        if self.items and self.items[-1] is TRUNCATED:
            return
        self.items.append(TRUNCATED)

    async def put(self, item: Any) -> None:
        """Add a packet, or ``None`` for the end."""
        self.put_nowait(item)

    def put_nowait(self, item: Any) -> None:
        """Add a packet, or ``None`` for the end."""
        if self.items is None:
            self.items = deque()
        if self.items and self.items[-1] is TRUNCATED:
            if item is not None:
                return
            self.items.pop()
        if item is not None:
            item.put_at = asyncio.get_running_loop().time()
        self.items.append(item)
        self._unfinished += 1
        size = _size(item)
        self.size += size
        self.total.add(size)
        if self.websocket is not None:
            self.websocket.send_queued()
        elif self._poll is not None and not self._poll.done():
            self._poll.set_result(True)

    async def get(self) -> Any:
        """Wait for the first packet of a poll. One poll waits at a time: a later one ends the one before, with a NOOP.

        So a client whose connection broke gets packets by the poll that it sent on its next connection.
        """
        self._end_poll()
        self._packets_of_poll = 0
        while self.empty():
            if self._polls_ended:
                return self._noop()
            mine = self._poll = asyncio.get_running_loop().create_future()
            try:
                still_wanted = await mine
            finally:
                if self._poll is mine:
                    self._poll = None
            if not still_wanted and not (self._polls_ended and not self.empty()):
                return self._noop()
            self._packets_of_poll = 0
        return self.get_nowait()

    def end_polls(self) -> None:
        """End the poll that waits; later ones do not wait: the client opens a websocket, or the connection ended."""
        self._polls_ended = True
        self._end_poll()

    def resume_polls(self) -> None:
        """Let polls wait again: the client goes on polling."""
        self._polls_ended = False

    def _end_poll(self) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(False)

    def _noop(self) -> Packet:
        self._packets_of_poll = PACKETS_PER_POLL
        self._unfinished += 1  # it counts as taken, too
        return Packet(NOOP)

    def get_nowait(self) -> Any:
        """Return the next packet of the poll. Raises ``asyncio.QueueEmpty`` at its end.

        python-engineio's client reads 16 packets a poll and no more.
        """
        if self.empty() or self._packets_of_poll == PACKETS_PER_POLL:
            raise asyncio.QueueEmpty
        self._packets_of_poll += 1
        return self.pop()

    def pop(self) -> Any:
        """Remove and return the next packet, which must be there."""
        assert self.items
        item = self.items.popleft()
        if self.items:
            self._last_read = asyncio.get_running_loop().time()
        else:
            self.items = None
        size = _size(item)
        self.size -= size
        self.total.add(-size)
        return item

    # --- unread bytes -----------------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes that wait for the client, here and in the buffer of its connection."""
        return self.size + self.buffered

    def buffer_filled(self, connection: Abortable, size: int) -> None:
        """Note that a connection has ``size`` bytes in its buffer, until it is drained. An earlier one is aborted."""
        if self.buffered_by is not None and self.buffered_by is not connection:
            self.buffered_by.abort()
        self.total.add(size - self.buffered)
        self.buffered, self.buffered_by = size, connection
        self.buffered_since = asyncio.get_running_loop().time()

    def buffer_drained(self, connection: Abortable) -> None:
        """Note that the client has read the bytes in a connection's buffer."""
        if self.buffered_by is connection:
            self.total.add(-self.buffered)
            self.buffered, self.buffered_by = 0, None
            self._last_read = asyncio.get_running_loop().time()

    def oldest_since(self) -> float | None:
        """Return since when the oldest byte waits, in loop time; ``None`` if none does."""
        first = self._first_since()
        if self.buffered_by is None:
            return first
        return self.buffered_since if first is None else min(first, self.buffered_since)

    def stalled_since(self) -> float | None:
        """Return since when the client has read nothing though bytes wait, in loop time; ``None`` if it reads."""
        if self.buffered_by is not None:
            return self.buffered_since
        first = self._first_since()
        return None if first is None else max(first, self._last_read)

    def _first_since(self) -> float | None:
        first = self.items[0] if self.items else None
        return None if first is None or first is TRUNCATED else first.put_at

    def discard(self) -> None:
        """Drop what waits: the connection has ended."""
        items, self.items = self.items or (), None
        for item in items:
            if item is not TRUNCATED:
                self.task_done()
        self.total.add(-self.unread)
        self.size = self.buffered = 0
        self.buffered_by = None

    # --- pings ------------------------------------------------------------------------------------------------------

    def ping_sent(self, position: int = 0) -> None:
        """Note a ping. ``position``: bytes written to the websocket up to its end; 0 for one that has left."""
        if self._pings is None:
            self._pings = []
        self._pings.append(position)

    def pong_received(self, left: int = 0) -> bool:
        """Return True if a pong answers a ping. ``left``: bytes that have left the websocket for its client.

        Call it once for each pong.
        """
        if self._pings is None or self._pings[0] > left:
            return False
        del self._pings[0]
        if not self._pings:
            self._pings = None
        return True

    # --- called by Engine.IO ----------------------------------------------------------------------------------------

    def task_done(self) -> None:
        """Note that a packet has been taken."""
        self._unfinished -= 1
        if not self._unfinished and self._joined is not None:
            self._joined.set()

    async def join(self) -> None:
        """Wait until all packets have been taken."""
        if self._unfinished:
            if self._joined is None:
                self._joined = asyncio.Event()
            self._joined.clear()
            await self._joined.wait()


def _size(item: Any) -> int:
    if item is None:
        return 0
    return PACKET_BYTES + (len(item.data) if isinstance(item.data, str | bytes) else 0)
