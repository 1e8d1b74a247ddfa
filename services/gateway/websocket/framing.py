"""Encode websocket frames, and flush those of one event-loop tick together."""

import asyncio
from typing import Protocol

TEXT, CLOSE, PONG = 0x81, 0x88, 0x8A
"""First bytes of unfragmented frames."""


def encode_frame(first_byte: int, data: bytes) -> bytes:
    """Return a frame as a server sends it: without a mask."""
    size = len(data)
    if size < 126:
        return b"%c%c%b" % (first_byte, size, data)
    if size < 65_536:
        return b"%c\x7e%b%b" % (first_byte, size.to_bytes(2), data)
    return b"%c\x7f%b%b" % (first_byte, size.to_bytes(8), data)


class Flushable(Protocol):
    """A websocket that has gathered frames."""

    def flush(self) -> None:
        """Write them. Raises nothing."""


class FlushScheduler:
    """Flush all websockets with frames at the end of an event-loop tick, in one callback."""

    def __init__(self) -> None:
        self._websockets: list[Flushable] = []

    def add(self, websocket: Flushable) -> None:
        """Flush a websocket at the end of this tick. Call it once a tick."""
        if not self._websockets:
            asyncio.get_running_loop().call_soon(self._flush)
        self._websockets.append(websocket)

    def _flush(self) -> None:
        websockets, self._websockets = self._websockets, []
        for websocket in websockets:
            websocket.flush()
