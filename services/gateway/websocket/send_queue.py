"""Queue what waits for a client, and count its bytes and its age: the queue of an Engine.IO connection."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from engineio.packet import MESSAGE, NOOP, Packet

PACKETS_PER_POLL = 16
PACKET_BYTES = 256
"""What a packet that waits takes besides its data."""


class _Gap:
    """Stands at the end of a queue behind which nothing is sent any more."""

    data = None


GAP = _Gap()


class Flusher(Protocol):
    """A websocket, where the client has one."""

    def pump(self) -> None:
        """Write what waits."""


class Holder(Protocol):
    """A connection of the network whose buffer holds bytes for a client that does not read."""

    def abort(self) -> None:
        """End it now, unread data included."""


class Waiting(Packet):  # type: ignore[misc]  # untyped
    """A message that waits, as bytes: as text it may take four times as much memory. ``data``: without its "4"."""

    def __init__(self, data: bytes) -> None:
        super().__init__(MESSAGE)
        self.data = data

    def frame(self) -> bytes:
        """Return what a websocket carries."""
        frame: bytes = b"4" + self.data
        return frame

    def encode(self, b64: bool = False) -> str:
        """Return what a poll carries."""
        return self.frame().decode()


class Tally:
    """Counts the bytes that wait for all clients of a gateway. ``over``: called when they are more than ``most``."""

    __slots__ = ("most", "over", "size")

    def __init__(self, most: int | None = None, over: Callable[[], None] | None = None) -> None:
        self.size = 0
        self.most = most
        self.over = over

    def add(self, size: int) -> None:
        """Count so many more bytes, or fewer."""
        self.size += size
        if size > 0 and self.most is not None and self.size > self.most and self.over is not None:
            self.over()


class SendQueue:
    """What waits for a client, and how much it is: as much of an ``asyncio.Queue`` as Engine.IO uses.

    An ``asyncio.Queue`` has several deques, which is much for each idle client.
    """

    __slots__ = (
        "_getter", "_joined", "_pings", "_read_at", "_released", "_taken", "_unfinished", "answered_at", "held",
        "holder", "items", "size", "stalled_at", "tally", "websocket",
    )  # fmt: skip

    def __init__(self, tally: Tally | None = None) -> None:
        self.tally = tally if tally is not None else Tally()
        self.size = 0
        """Bytes that wait here."""
        self.held, self.stalled_at = 0, 0.0
        """Bytes in the buffer of a connection whose client does not read, and since when, in loop time."""
        self.holder: Holder | None = None
        """That connection."""
        self._read_at = 0.0
        """When the client last read a part of what waits, in loop time."""
        self._pings: list[int] | None = None
        """Pings that have not been answered, by how many bytes of a websocket went before their end."""
        self.answered_at: int | None = None
        """When the client last answered a ping, in ms since the epoch; ``None`` before that."""
        self.websocket: Flusher | None = None
        """Where it all goes; ``None`` while the client polls."""
        self.items: deque[Any] | None = None
        """What waits; ``None`` for nothing."""
        self._taken = 0
        self._unfinished = 0
        self._getter: asyncio.Future[bool] | None = None
        """The poll that waits; ``False`` for one that another has taken the place of."""
        self._joined: asyncio.Event | None = None
        self._released = False
        """True if polls do not wait."""

    def empty(self) -> bool:
        """Return True if nothing waits that may be sent."""
        return not self.items or self.items[0] is GAP

    def cut(self) -> None:
        """Leave out all that would be added from now on, but for the end: what comes later must not follow a gap.

        A client that reads on gets what waits, and then nothing until its connection is closed. It resumes from there.
        """
        if self.items is None:
            self.items = deque()
        if self.items and self.items[-1] is GAP:
            return
        self.items.append(GAP)

    async def put(self, item: Any) -> None:
        """Add a packet, or ``None`` for the end."""
        self.put_nowait(item)

    def put_nowait(self, item: Any) -> None:
        """Add a packet, or ``None`` for the end."""
        if self.items is None:
            self.items = deque()
        if self.items and self.items[-1] is GAP:
            if item is not None:
                return
            self.items.pop()
        if item is not None:
            item.put_at = asyncio.get_running_loop().time()
        self.items.append(item)
        self._unfinished += 1
        size = _size(item)
        self.size += size
        self.tally.add(size)
        if self.websocket is not None:
            self.websocket.pump()
        elif self._getter is not None and not self._getter.done():
            self._getter.set_result(True)

    async def get(self) -> Any:
        """Wait for the first packet of a poll. One at a time waits: a later poll ends the one before, with nothing.

        So a client whose connection broke gets what comes by the poll that it sent on the next one.
        """
        self._end_poll()
        self._taken = 0
        while self.empty():
            if self._released:
                return self._noop()
            mine = self._getter = asyncio.get_running_loop().create_future()
            try:
                still_wanted = await mine
            finally:
                if self._getter is mine:
                    self._getter = None
            if not still_wanted and not (self._released and not self.empty()):
                return self._noop()
            self._taken = 0
        return self.get_nowait()

    def release(self) -> None:
        """End the poll that waits; later ones do not wait: the client goes elsewhere, or the connection is over."""
        self._released = True
        self._end_poll()

    def hold(self) -> None:
        """Let polls wait again: the client goes on polling."""
        self._released = False

    def _end_poll(self) -> None:
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(False)

    def _noop(self) -> Packet:
        self._taken = PACKETS_PER_POLL
        self._unfinished += 1  # it counts as taken, too
        return Packet(NOOP)

    def get_nowait(self) -> Any:
        """The next packet of the poll; raises ``asyncio.QueueEmpty`` at its end.

        python-engineio's client reads 16 packets a poll and no more.
        """
        if self.empty() or self._taken == PACKETS_PER_POLL:
            raise asyncio.QueueEmpty
        self._taken += 1
        return self.take()

    def take(self) -> Any:
        """The next packet, which must be there."""
        assert self.items
        item = self.items.popleft()
        if self.items:
            self._read_at = asyncio.get_running_loop().time()
        else:
            self.items = None
        size = _size(item)
        self.size -= size
        self.tally.add(-size)
        return item

    # --- what its client does not read ------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes that wait for the client, here and in the buffer of its connection."""
        return self.size + self.held

    def stalls(self, holder: Holder, size: int) -> None:
        """Note that a connection has ``size`` bytes in its buffer, until :meth:`moves`. An earlier one is ended."""
        if self.holder is not None and self.holder is not holder:
            self.holder.abort()
        self.tally.add(size - self.held)
        self.held, self.holder = size, holder
        self.stalled_at = asyncio.get_running_loop().time()

    def moves(self, holder: Holder) -> None:
        """Note that the client has read what was in the connection's buffer."""
        if self.holder is holder:
            self.tally.add(-self.held)
            self.held, self.holder = 0, None
            self._read_at = asyncio.get_running_loop().time()

    def oldest(self) -> float | None:
        """Return since when the oldest byte waits, in loop time; ``None`` if none does."""
        first = self._first_at()
        if self.holder is None:
            return first
        return self.stalled_at if first is None else min(first, self.stalled_at)

    def stuck_since(self) -> float | None:
        """Return since when the client has read nothing though something waits, in loop time; ``None`` if it reads."""
        if self.holder is not None:
            return self.stalled_at
        first = self._first_at()
        return None if first is None else max(first, self._read_at)

    def _first_at(self) -> float | None:
        first = self.items[0] if self.items else None
        return None if first is None or first is GAP else first.put_at

    def discard(self) -> None:
        """Let go of what waits: the connection is over."""
        items, self.items = self.items or (), None
        for item in items:
            if item is not GAP:
                self.task_done()
        self.tally.add(-self.unread)
        self.size = self.held = 0
        self.holder = None

    # --- pings ------------------------------------------------------------------------------------------------------

    def pinged(self, position: int = 0) -> None:
        """Note that a ping is on its way. ``position``: bytes of a websocket up to its end; 0 for one that has left."""
        if self._pings is None:
            self._pings = []
        self._pings.append(position)

    def ponged(self, left: int = 0) -> bool:
        """Return True if a pong answers a ping. ``left``: bytes of a websocket that have left for its client."""
        if self._pings is None or self._pings[0] > left:
            return False
        del self._pings[0]
        if not self._pings:
            self._pings = None
        return True

    def task_done(self) -> None:
        """A packet has been taken."""
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
