"""What is read from a websocket: aiohttp's reader, and the line of what has to wait."""

import asyncio
from typing import Any, Protocol

from services.gateway.compat.aiohttp_compat import WebSocketDataQueue, has_fields, has_messages

UNREAD_BYTES = 64 * 1024
"""Half of what may wait before nothing more is read; 128 for each frame are added."""


class Taker(Protocol):
    """Who takes frames as they are read. Its methods raise nothing: the reader in C would not pass it on."""

    def received(self, message: Any, size: int) -> None:
        """A message (aiohttp's) of ``size`` bytes."""

    def broken(self, error: BaseException) -> None:
        """What comes now is no websocket frame, or too large a one."""

    def pause_reading(self) -> None:
        """Read nothing more."""

    def resume_reading(self) -> None:
        """Read on."""


class Broken:
    """Stands behind what was read for what cannot be."""

    type = None
    data = b""

    def __init__(self, code: int) -> None:
        self.code = code


class ReadQueue(WebSocketDataQueue):
    """Where aiohttp's reader puts what it has read: into the hands of a websocket, or into a line behind those.

    The line is made when there is something for it, because an empty one takes as much memory as all the rest.
    """

    __slots__ = ("_made", "_taker")

    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        self._made = False
        if not has_fields(self):  # the reader without C has no fields before that
            self._make()

    def feed_data(self, data: Any, size: int) -> None:
        self._taker.received(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self._taker.broken(exc)

    def put(self, message: Any, size: int) -> None:
        """Have a message wait."""
        if not self._made:
            self._make()
        super().feed_data(message, size)

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._made or not has_messages(self)

    def _make(self) -> None:
        self._made = True
        super().__init__(self._taker, UNREAD_BYTES, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
