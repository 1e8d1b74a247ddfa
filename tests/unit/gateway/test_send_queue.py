"""The queue of a client that polls."""

import asyncio

import pytest
from engineio.packet import MESSAGE, Packet

from services.gateway.websocket.send_queue import PACKETS_PER_POLL, Outgoing


async def test_a_poll_gets_what_waits_in_order_and_not_too_much() -> None:
    queue = Outgoing()
    poll = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    for n in range(PACKETS_PER_POLL + 3):
        queue.put_nowait(Packet(MESSAGE, str(n)))
    got = [await poll]
    got += [queue.get_nowait() for _ in range(PACKETS_PER_POLL - 1)]
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    assert [packet.data for packet in got] == [str(n) for n in range(PACKETS_PER_POLL)]
    assert (await queue.get()).data == str(PACKETS_PER_POLL)


async def test_join_waits_until_all_is_taken() -> None:
    queue = Outgoing()
    queue.put_nowait(None)
    joining = asyncio.create_task(queue.join())
    await asyncio.sleep(0)
    assert not joining.done()
    assert await queue.get() is None
    queue.task_done()
    await asyncio.wait_for(joining, 30)
    await asyncio.wait_for(queue.join(), 1)


async def test_a_poll_that_is_given_up_loses_nothing() -> None:
    queue = Outgoing()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.01)
    queue.put_nowait(None)
    assert await asyncio.wait_for(queue.get(), 1) is None


async def test_nothing_follows_a_gap() -> None:
    """A poll gets what waited before, and then nothing but the end."""
    queue = Outgoing()
    queue.put_nowait(Packet(MESSAGE, "before"))
    queue.cut()
    queue.cut()
    queue.put_nowait(Packet(MESSAGE, "behind"))
    assert (await queue.get()).data == "before"
    assert queue.empty() and queue.size == 0
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    queue.put_nowait(Packet(MESSAGE, "behind"))
    poll = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not poll.done()
    queue.put_nowait(None)
    assert await asyncio.wait_for(poll, 10) is None
