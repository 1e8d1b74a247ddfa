"""What is written to a websocket: no frame overtakes what waits, and a client that does not read gets no more."""

import asyncio

import pytest

from services.gateway.websocket.connection import WRITE_BUFFER_BYTES
from services.gateway.websocket.framing import TEXT, encode_frame
from services.gateway.websocket.send_queue import PACKET_BYTES, QueuedMessage
from services.gateway.websocket.state import Stage
from tests.support.logged import Logged
from tests.unit.gateway.websocket_client import Client, Transport, frames


async def test_what_is_written_in_one_tick_leaves_together() -> None:
    client = Client()
    assert client.send("2[1]") and client.send("2[2]") and not client.transport.written
    await asyncio.sleep(0)
    assert client.transport.written == [frames("2[1]", "2[2]")]
    assert client.send("2[3]")
    await asyncio.sleep(0)
    assert client.transport.written[1:] == [frames("2[3]")]


async def test_what_waits_is_not_overtaken() -> None:
    client = Client()
    client.websocket.pause_writing()
    assert not client.send("2[1]") and not client.send("2[2]")
    client.websocket._writing_paused = False  # as in the middle of resume_writing
    assert not client.websocket.write(b"42[3]"), "something waits"
    client.websocket.resume_writing()
    assert client.send("2[3]") and client.queue.empty()
    await asyncio.sleep(0)
    assert client.transport.written == [frames("2[1]", "2[2]", "2[3]")]


async def test_no_more_is_written_on_the_way_out_than_the_client_reads() -> None:
    client = Client()
    client.websocket.pause_writing()
    for n in range(3):
        client.send(f"2[{n}]")
    written = Transport.write

    def write(data: bytes) -> None:
        written(client.transport, data)
        client.websocket.pause_writing()

    client.transport.write = write  # type: ignore[method-assign]
    big = "2[" + "1" * WRITE_BUFFER_BYTES + "]"
    client.queue.put_nowait(QueuedMessage(big.encode()))
    client.send("2[9]")
    client.websocket.resume_writing()
    assert client.transport.written == [frames("2[0]", "2[1]", "2[2]", big)], (
        "past so much it is written at once"
    )
    assert client.queue.size == PACKET_BYTES + len("2[9]")


@pytest.mark.parametrize("stage", [Stage.PROBING, Stage.UPGRADING, Stage.CLOSING])
async def test_nothing_is_written_before_and_after(stage: Stage) -> None:
    client = Client(stage)
    assert not client.websocket.write(b"42[1]")
    assert Client().websocket.write(b"42[1]")


async def test_nothing_is_written_to_a_client_that_is_gone() -> None:
    client = Client()
    client.connection.closed = True
    assert not client.websocket.write(b"42[1]")
    client = Client()
    client.transport.closing = True
    assert not client.websocket.write(b"42[1]")
    client = Client()
    client.websocket._transport = None
    assert not client.websocket.write(b"42[1]")


async def test_a_pong_answers_only_a_ping_that_has_left() -> None:
    client = Client()

    def pongs() -> int:
        client.says("3")
        return client.server.pongs

    assert pongs() == 0, "no ping was sent"
    client.websocket.ping()
    assert pongs() == 0, "written in this tick, not flushed yet"
    await asyncio.sleep(0)
    client.transport.buffered = 1
    assert pongs() == 0, "its last byte is in the buffer"
    client.transport.buffered = 0
    assert pongs() == 1
    assert pongs() == 1, "one pong for each ping"
    client.stop()


async def test_a_ping_behind_what_waits_has_not_left() -> None:
    client = Client()
    client.websocket.pause_writing()
    client.send("2[1]")
    client.websocket.ping()
    client.says("3")
    assert not client.server.pongs
    client.websocket.resume_writing()
    await asyncio.sleep(0)
    assert client.transport.written == [frames("2[1]") + encode_frame(TEXT, b"2")]
    client.send("2[2]")
    await asyncio.sleep(0)
    client.transport.buffered = len(frames("2[2]"))
    client.says("3")
    assert client.server.pongs == 1, "what was written behind it says nothing about it"
    client.stop()


async def test_what_a_full_connection_holds_is_unread() -> None:
    client = Client()
    client.transport.buffered = 40_000
    client.websocket.pause_writing()
    client.send("2[1]")
    waits = PACKET_BYTES + len("2[1]")
    assert client.queue.unread == 40_000 + waits == client.queue.total.size
    assert client.queue.oldest_since() is not None
    client.websocket.resume_writing()
    assert client.queue.unread == client.queue.total.size == 0
    assert client.queue.oldest_since() is None


# --- what is read ---------------------------------------------------------------------------------------------------


async def test_a_pong_does_not_wait_behind_a_message_that_is_awaited() -> None:
    client = Client()
    client.server.may_go_on.clear()
    client.says('42["first"]')
    client.says('42["second"]')
    client.websocket.ping()
    await asyncio.sleep(0)
    client.says("3")
    assert client.server.pongs == 1 and not client.server.handled
    client.server.may_go_on.set()
    async with asyncio.timeout(5):
        while len(client.server.handled) < 2:
            await asyncio.sleep(0)
    assert client.server.handled == ['2["first"]', '2["second"]']
    client.stop()


async def test_an_upgrade_ends_polls_at_the_probe_and_is_done_once_the_body_is_handled() -> None:
    client = Client(Stage.PROBING)
    poll = asyncio.ensure_future(client.queue.get())
    await asyncio.sleep(0)
    client.says("2probe")
    await asyncio.sleep(0)
    assert client.transport.written == [encode_frame(TEXT, b"3probe")] and (await poll).packet_type == 6
    client.server.may_go_on.clear()
    client.says("5")
    client.queue.put_nowait(QueuedMessage(b"2[1]"))
    await asyncio.sleep(0)
    assert not client.connection.upgraded
    client.server.may_go_on.set()
    async with asyncio.timeout(5):
        while len(client.transport.written) < 2:
            await asyncio.sleep(0)
    assert client.connection.upgraded and client.transport.written[1] == frames("2[1]")
    assert client.websocket.awaits_pong, "a ping of Engine.IO's may be on its way"
    client.stop()


async def test_a_defect_costs_one_connection(logged: Logged) -> None:
    client = Client()
    client.server.malformed = None  # type: ignore[assignment,method-assign]
    client.says("b")
    assert client.transport.aborted
    assert logged.count("frame not handled") == 1
