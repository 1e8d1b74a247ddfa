"""Hand on messages of aiohttp's websocket parser, and queue those that have to wait."""

import asyncio
from typing import Any, Protocol

from services.gateway.compat.aiohttp_compat import WebSocketDataQueue, has_fields, has_messages

UNREAD_BYTES = 64 * 1024
"""Half of what may wait before nothing more is read; 128 for each frame are added."""


class MessageReceiver(Protocol):
    """Receives messages as they are parsed. Its methods raise nothing: the parser in C would not pass it on."""

    def received(self, message: Any, size: int) -> None:
        """Handle a message (aiohttp's) of ``size`` bytes."""

    def broken(self, error: BaseException) -> None:
        """Handle the end of what can be parsed: no websocket frame, or one that is too large."""

    def pause_reading(self) -> None:
        """Read nothing more."""

    def resume_reading(self) -> None:
        """Read again."""


class Unreadable:
    """Stands in the queue for bytes that could not be parsed. ``code``: of the close frame that answers them."""

    type = None
    data = b""

    def __init__(self, code: int) -> None:
        self.code = code


class ReadQueue(WebSocketDataQueue):
    """The queue into which aiohttp's parser puts messages: passes them to a receiver, which may have them wait here.

    It is initialized when a message waits, because an empty queue takes as much memory as all else of a websocket.
    """

    __slots__ = ("_initialized", "_receiver")

    def __init__(self, receiver: MessageReceiver) -> None:
        self._receiver = receiver
        self._initialized = False
        if not has_fields(self):
            self._initialize()

    def feed_data(self, data: Any, size: int) -> None:
        """Pass a message of the parser on."""
        self._receiver.received(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Report bytes that are no websocket frames."""
        self._receiver.broken(exc)

    def put(self, message: Any, size: int) -> None:
        """Have a message wait."""
        if not self._initialized:
            self._initialize()
        super().feed_data(message, size)

    def empty(self) -> bool:
        """Return True if no message waits."""
        return not self._initialized or not has_messages(self)

    def _initialize(self) -> None:
        self._initialized = True
        super().__init__(self._receiver, UNREAD_BYTES, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
