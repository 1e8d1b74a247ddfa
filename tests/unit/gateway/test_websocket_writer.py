"""What is written to a websocket: nothing overtakes what waits, and who does not read gets nothing more."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from engineio.packet import MESSAGE, Packet

from services.gateway.websocket.framing import Writing, framed
from services.gateway.websocket.send_queue import Outgoing
from services.gateway.websocket.writer import UNWRITTEN_BYTES, Outlet, Stage

TEXT = 0x81


class Line:
    """A connection of the network."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing


class Client:
    """An open websocket of a client. ``line``: what reaches it."""

    def __init__(self, stage: Stage = Stage.OPEN) -> None:
        self.queue, self.line = Outgoing(), Line()
        self.connection = SimpleNamespace(queue=self.queue, closed=False)
        self.outlet = Outlet(self.connection, stage, Writing())
        self.outlet._transport = cast(Any, self.line)
        self.queue.websocket = self.outlet

    def send(self, text: str) -> bool:
        """As the transport does; whether it was written at once."""
        if self.outlet.write(b"4" + text.encode()):
            return True
        self.queue.put_nowait(Packet(MESSAGE, text))
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
    client.queue.put_nowait(Packet(MESSAGE, big))
    client.send("2[9]")
    client.outlet.resume_writing()
    assert client.line.written == [frames("2[0]", "2[1]", "2[2]", big)], "past so much it is written at once"
    assert client.queue.size == len("2[9]")


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
