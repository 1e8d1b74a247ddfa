"""What waits to be sent to a client: the queue of an Engine.IO connection."""

import asyncio
from collections import deque
from typing import Any, Protocol

from engineio.packet import NOOP, Packet

PACKETS_PER_POLL = 16


class _Gap:
    """Stands at the end of a queue behind which nothing is sent any more."""

    data = None


GAP = _Gap()


class Pump(Protocol):
    """A websocket, where the client has one."""

    def pump(self) -> None:
        """Write what waits."""


class Outgoing:
    """What waits for a client, and how much it is: as much of an ``asyncio.Queue`` as Engine.IO uses.

    An ``asyncio.Queue`` has several deques, which is much for each idle client.
    """

    __slots__ = ("_getter", "_joined", "_released", "_taken", "_unfinished", "items", "size", "websocket")

    def __init__(self) -> None:
        self.size = 0
        """Bytes."""
        self.websocket: Pump | None = None
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
        self.items.append(item)
        self._unfinished += 1
        self.size += _size(item)
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
        if not self.items:
            self.items = None
        self.size -= _size(item)
        return item

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
    return len(item.data) if item is not None and isinstance(item.data, str) else 0
