"""The queue of a client that polls."""

import asyncio

import pytest
from engineio.packet import MESSAGE, Packet

from services.gateway.websocket.send_queue import (
    PACKET_BYTES,
    PACKETS_PER_POLL,
    QueuedMessage,
    SendQueue,
    UnreadTotal,
)


async def test_a_poll_gets_what_waits_in_order_and_not_too_much() -> None:
    queue = SendQueue()
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
    queue = SendQueue()
    queue.put_nowait(None)
    joining = asyncio.create_task(queue.join())
    await asyncio.sleep(0)
    assert not joining.done()
    assert await queue.get() is None
    queue.task_done()
    await asyncio.wait_for(joining, 30)
    await asyncio.wait_for(queue.join(), 1)


async def test_a_poll_that_is_given_up_loses_nothing() -> None:
    queue = SendQueue()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.01)
    queue.put_nowait(None)
    assert await asyncio.wait_for(queue.get(), 1) is None


async def test_nothing_follows_a_gap() -> None:
    """A poll gets what waited before, and then nothing but the end."""
    queue = SendQueue()
    queue.put_nowait(Packet(MESSAGE, "before"))
    queue.truncate()
    queue.truncate()
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


class Buffer:
    """A connection of the network."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


async def test_bytes_are_counted_in_memory_not_in_characters() -> None:
    total = UnreadTotal()
    one, other = SendQueue(total), SendQueue(total)
    text = "é🙂"
    one.put_nowait(QueuedMessage(text.encode()))
    other.put_nowait(Packet(MESSAGE, "12"))
    assert (one.size, other.size) == (PACKET_BYTES + 6, PACKET_BYTES + 2)
    assert total.size == one.size + other.size
    assert one.pop().encode() == "4" + text
    other.discard()
    assert total.size == one.size == other.size == 0 and other.empty()
    await asyncio.wait_for(other.join(), 1)


async def test_more_than_the_share_is_told() -> None:
    told: list[int] = []
    total = UnreadTotal(2 * PACKET_BYTES, lambda: told.append(total.size))
    queue = SendQueue(total)
    queue.put_nowait(QueuedMessage(b""))
    queue.put_nowait(QueuedMessage(b""))
    assert not told
    queue.put_nowait(QueuedMessage(b"1"))
    assert told == [3 * PACKET_BYTES + 1]
    queue.pop()
    assert len(told) == 1, "less is no news"


async def test_an_answer_that_is_not_read_is_ended_by_the_next_one() -> None:
    queue, first, second = SendQueue(), Buffer(), Buffer()
    queue.buffer_filled(first, 1000)
    assert queue.unread == queue.total.size == 1000
    queue.buffer_filled(second, 300)
    assert first.aborted and not second.aborted
    assert queue.unread == queue.total.size == 300
    queue.buffer_drained(first)
    assert queue.unread == 300, "it holds nothing any more"
    queue.buffer_drained(second)
    assert queue.unread == queue.total.size == 0


async def test_the_oldest_byte_and_when_the_client_read_last() -> None:
    queue, loop = SendQueue(), asyncio.get_running_loop()
    assert queue.oldest_since() is None and queue.stalled_since() is None
    begun = loop.time()
    queue.put_nowait(QueuedMessage(b"1"))
    queue.put_nowait(QueuedMessage(b"2"))
    await asyncio.sleep(0.02)
    queue.put_nowait(QueuedMessage(b"3"))
    oldest, stuck = queue.oldest_since(), queue.stalled_since()
    assert oldest is not None and oldest == stuck and oldest - begun < 0.01
    queue.pop()
    assert queue.oldest_since() is not None and queue.oldest_since() - begun < 0.01  # type: ignore[operator]
    stuck = queue.stalled_since()
    assert stuck is not None and stuck - begun >= 0.02, "it has read just now"
    queue.pop()
    assert queue.oldest_since() - begun >= 0.02  # type: ignore[operator]
    queue.pop()
    assert queue.oldest_since() is None and queue.stalled_since() is None
    queue.truncate()
    assert queue.oldest_since() is None, "nothing waits before the gap"


def test_each_pong_answers_one_ping() -> None:
    queue = SendQueue()
    assert not queue.pong_received()
    queue.ping_sent()
    queue.ping_sent(100)
    assert queue.pong_received()
    assert not queue.pong_received(99)
    assert queue.pong_received(100)
    assert not queue.pong_received(100)
