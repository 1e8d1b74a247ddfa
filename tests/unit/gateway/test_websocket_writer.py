"""What is written to a websocket: nothing overtakes what waits, and who does not read gets nothing more."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.gateway.websocket.framing import Writing, framed
from services.gateway.websocket.send_queue import PACKET_BYTES, SendQueue, Waiting
from services.gateway.websocket.writer import UNWRITTEN_BYTES, Outlet, Stage

TEXT = 0x81


class Line:
    """A connection of the network."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False
        self.buffered = 0
        """Bytes that have not left yet."""

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.buffered


class Client:
    """An open websocket of a client. ``line``: what reaches it."""

    def __init__(self, stage: Stage = Stage.OPEN) -> None:
        self.queue, self.line = SendQueue(), Line()
        self.connection = SimpleNamespace(queue=self.queue, closed=False)
        self.outlet = Outlet(self.connection, stage, Writing())
        self.outlet._transport = cast(Any, self.line)
        self.queue.websocket = self.outlet

    def send(self, text: str) -> bool:
        """As the transport does; whether it was written at once."""
        if self.outlet.write(b"4" + text.encode()):
            return True
        self.queue.put_nowait(Waiting(text.encode()))
        return False


def frames(*texts: str) -> bytes:
    return b"".join(framed(TEXT, b"4" + text.encode()) for text in texts)


async def test_what_is_written_in_one_turn_leaves_together() -> None:
    client = Client()
    assert client.send("2[1]") and client.send("2[2]") and not client.line.written
    await asyncio.sleep(0)
    assert client.line.written == [frames("2[1]", "2[2]")]
    assert client.send("2[3]")
    await asyncio.sleep(0)
    assert client.line.written[1:] == [frames("2[3]")]


async def test_what_waits_is_not_overtaken() -> None:
    client = Client()
    client.outlet.pause_writing()
    assert not client.send("2[1]") and not client.send("2[2]")
    client.outlet._full = False  # as in the middle of resume_writing
    assert not client.outlet.write(b"42[3]"), "something waits"
    client.outlet.resume_writing()
    assert client.send("2[3]") and client.queue.empty()
    await asyncio.sleep(0)
    assert client.line.written == [frames("2[1]", "2[2]", "2[3]")]


async def test_no_more_is_written_on_the_way_out_than_the_client_reads() -> None:
    client = Client()
    client.outlet.pause_writing()
    for n in range(3):
        client.send(f"2[{n}]")
    written = Line.write

    def write(data: bytes) -> None:
        written(client.line, data)
        client.outlet.pause_writing()

    client.line.write = write  # type: ignore[method-assign]
    big = "2[" + "1" * UNWRITTEN_BYTES + "]"
    client.queue.put_nowait(Waiting(big.encode()))
    client.send("2[9]")
    client.outlet.resume_writing()
    assert client.line.written == [frames("2[0]", "2[1]", "2[2]", big)], "past so much it is written at once"
    assert client.queue.size == PACKET_BYTES + len("2[9]")


@pytest.mark.parametrize("stage", [Stage.PROBING, Stage.UPGRADING, Stage.CLOSING])
async def test_nothing_is_written_before_and_after(stage: Stage) -> None:
    client = Client(stage)
    assert not client.outlet.write(b"42[1]")
    assert Client().outlet.write(b"42[1]")


async def test_nothing_is_written_to_who_is_gone() -> None:
    client = Client()
    client.connection.closed = True
    assert not client.outlet.write(b"42[1]")
    client = Client()
    client.line.closing = True
    assert not client.outlet.write(b"42[1]")
    client = Client()
    client.outlet._transport = None
    assert not client.outlet.write(b"42[1]")


async def test_a_pong_answers_only_a_ping_that_has_left() -> None:
    client = Client()
    outlet, line = client.outlet, client.line
    assert not outlet._answers(), "nothing was asked"
    outlet.ping()
    assert not outlet._answers(), "written in this turn, not flushed yet"
    await asyncio.sleep(0)
    line.buffered = 1
    assert not outlet._answers(), "its last byte is in the buffer"
    line.buffered = 0
    assert outlet._answers()
    assert not outlet._answers(), "one pong for each ping"


async def test_a_ping_behind_what_waits_has_not_left() -> None:
    client = Client()
    client.outlet.pause_writing()
    client.send("2[1]")
    client.outlet.ping()
    assert not client.outlet._answers()
    client.outlet.resume_writing()
    await asyncio.sleep(0)
    assert client.line.written == [frames("2[1]") + framed(TEXT, b"2")]
    client.send("2[2]")
    await asyncio.sleep(0)
    client.line.buffered = len(frames("2[2]"))
    assert client.outlet._answers(), "what was written behind it says nothing about it"


async def test_what_a_full_connection_holds_is_unread() -> None:
    client = Client()
    client.line.buffered = 40_000
    client.outlet.pause_writing()
    client.send("2[1]")
    waits = PACKET_BYTES + len("2[1]")
    assert client.queue.unread == 40_000 + waits == client.queue.tally.size
    assert client.queue.oldest() is not None
    client.outlet.resume_writing()
    assert client.queue.unread == client.queue.tally.size == 0
    assert client.queue.oldest() is None
