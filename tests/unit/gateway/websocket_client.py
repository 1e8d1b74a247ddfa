"""A websocket of the gateway over a transport that keeps what is written, without a network."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from services.gateway.websocket.connection import WebSocket
from services.gateway.websocket.framing import TEXT, FlushScheduler, encode_frame
from services.gateway.websocket.send_queue import QueuedMessage, SendQueue
from services.gateway.websocket.state import Stage

__all__ = ["Client", "Transport", "frames"]


class Transport:
    """The network connection. ``written``: what the kernel was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = self.aborted = False
        self.reading = True
        self.buffered = 0
        """Bytes that have not left yet."""

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Server:
    """Counts what a websocket reports to its Socket.IO server."""

    def __init__(self) -> None:
        self.websockets: dict[str, WebSocket] = {}
        self.flushes = FlushScheduler()
        self.max_frame = 1024
        self.pongs = 0
        self.aborted: list[str] = []
        self.handled: list[str] = []
        self.refused: list[str] = []
        self.too_large = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def take_relay(self, eio_sid: str, frame: bytes) -> bool:
        return False

    async def message(self, eio_sid: str, packet: str) -> None:
        await self.may_go_on.wait()
        self.handled.append(packet)

    async def wait_for_post(self, eio_sid: str) -> None:
        await self.may_go_on.wait()

    def end_polling(self, eio_sid: str) -> None:
        pass

    async def malformed(self, eio_sid: str, what: str) -> None:
        self.refused.append(what)

    def pong_received(self, eio_sid: str) -> None:
        self.pongs += 1

    def count_aborted(self, reason: str) -> None:
        self.aborted.append(reason)

    def frame_too_large(self) -> None:
        self.too_large += 1


class Client:
    """The websocket of a client, in any stage. ``transport``: what reaches the client."""

    def __init__(self, stage: Stage = Stage.OPEN, *, interval: float = 25.0, timeout: float = 20.0) -> None:
        self.queue, self.transport, self.server = SendQueue(), Transport(), Server()
        engine = SimpleNamespace(ping_interval=interval, ping_timeout=timeout, sockets={})
        self.connection: Any = SimpleNamespace(
            sid="e", queue=self.queue, connected=stage is not Stage.OPEN, closed=False, server=engine, last_ping=None,
            upgrading=stage is not Stage.OPEN, upgraded=stage is Stage.OPEN,
        )  # fmt: skip
        self.websocket = WebSocket(self.connection, self.server)
        self.websocket._state.stage = stage
        self.websocket._transport = cast(Any, self.transport)
        if stage is Stage.OPEN:
            self.queue.websocket = self.websocket

    def send(self, text: str) -> bool:
        """Send a message as the gateway does. Return True if it was written at once."""
        if self.websocket.write(b"4" + text.encode()):
            return True
        self.queue.put_nowait(QueuedMessage(text.encode()))
        return False

    def says(self, text: str) -> None:
        """Receive a text frame from the client."""
        assert len(text) < 126
        self.websocket.data_received(b"%c%c\0\0\0\0%b" % (TEXT, 0x80 | len(text), text.encode()))

    def stop(self) -> None:
        """End its timer."""
        self.websocket._stop_timer()


def frames(*texts: str) -> bytes:
    """Messages as the client gets them."""
    return b"".join(encode_frame(TEXT, b"4" + text.encode()) for text in texts)
