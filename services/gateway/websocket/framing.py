"""Writing to websockets: their frames, and all of them at the end of a turn of the event loop."""

import asyncio
from typing import Protocol

TEXT, CLOSE, PONG = 0x81, 0x88, 0x8A
"""First bytes of whole frames."""


def framed(kind: int, data: bytes) -> bytes:
    """A frame as a server writes it."""
    size = len(data)
    if size < 126:
        return b"%c%c%b" % (kind, size, data)
    if size < 65_536:
        return b"%c\x7e%b%b" % (kind, size.to_bytes(2), data)
    return b"%c\x7f%b%b" % (kind, size.to_bytes(8), data)


class Writer(Protocol):
    """Something that gathers what it has to write."""

    def flush(self) -> None:
        """Write it. Raises nothing."""


class Writing:
    """Who has something to write at the end of this turn: one callback for all of them."""

    def __init__(self) -> None:
        self._writers: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """It has something to write from now on."""
        if not self._writers:
            asyncio.get_running_loop().call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()
