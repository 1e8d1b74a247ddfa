"""The short way of reading NATS, against nats-py's parser: the same messages, however the bytes come."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from shared import asyncio_compat
from shared.nats.fast_parser import FastParser

Seen = tuple[int, str, str, bytes, bytes]
"""(subscription, subject, reply, payload, headers)"""
HEAD = b"NATS/1.0 503\r\n\r\n"


class Client:
    """What a parser needs of nats-py's client."""

    def __init__(self) -> None:
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self.seen: list[Seen] = []
        self.pings = 0

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        self.seen.append((sid, subject.decode(), reply.decode(), bytes(data), bytes(headers or b"")))

    async def _process_ping(self) -> None:
        self.pings += 1

    async def _process_pong(self) -> None:
        pass

    async def _process_err(self, _: str) -> None:
        pass


def message(sid: int, reply: str, payload: bytes, head: bytes) -> bytes:
    to = f"a.b {sid} {reply}".strip()
    if head:
        return f"HMSG {to} {len(head)} {len(head) + len(payload)}\r\n".encode() + head + payload + b"\r\n"
    return f"MSG {to} {len(payload)}\r\n".encode() + payload + b"\r\n"


payloads = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"", b"\r\n", b"MSG a 1 3\r\nabc\r\n", b"PING\r\n"])
)
units = st.one_of(
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n"]),
    st.builds(
        message, st.integers(1, 3), st.sampled_from(["", "inbox.1"]), payloads, st.sampled_from([b"", HEAD])
    ),
)


@settings(deadline=None)  # each has an event loop of its own, which a busy machine may keep waiting
@given(st.lists(units, max_size=8), st.lists(st.integers(1, 60), max_size=30))
def test_it_reads_what_nats_py_reads(sent: list[bytes], sizes: list[int]) -> None:
    stream, pieces = b"".join(sent), []
    for size in [*sizes, len(b"".join(sent)) + 1]:
        pieces.append(stream[:size])
        stream = stream[size:]

    async def read() -> tuple[Client, Client]:
        ours, theirs = Client(), Client()
        reader, parser = FastParser(ours), Parser(theirs)  # type: ignore[arg-type]
        for sid in (1, 2):  # 3 takes nats-py's way

            def direct(subject: str, reply: str, payload: bytes, head: bytes, sid: int = sid) -> None:
                ours.seen.append((sid, subject, reply, payload, head))

            reader.direct[b"%d" % sid] = direct
        for piece in pieces:
            await reader.parse(piece)
            await parser.parse(piece)
        return ours, theirs

    ours, theirs = asyncio.run(read())
    assert ours.seen == theirs.seen
    assert ours.pings == theirs.pings


@settings(deadline=None)  # each has an event loop of its own, which a busy machine may keep waiting
@given(st.lists(units, max_size=8), st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=30))
def test_it_reads_the_same_as_it_comes_from_the_network(
    sent: list[bytes], cuts: list[tuple[int, bool]]
) -> None:
    """``cuts``: sizes of pieces, and whether nats-py's loop gets its turn after one."""
    stream = b"".join(sent)

    async def read() -> tuple[Client, Client]:
        ours, theirs = Client(), Client()
        reader, parser = FastParser(ours), Parser(theirs)  # type: ignore[arg-type]
        for sid in (1, 2):

            def direct(subject: str, reply: str, payload: bytes, head: bytes, sid: int = sid) -> None:
                ours.seen.append((sid, subject, reply, payload, head))

            reader.direct[b"%d" % sid] = direct
        network = asyncio.StreamReader()
        asyncio_compat.read_ahead(network, reader.take)

        async def loop() -> None:
            while not network.at_eof():
                await reader.parse(await network.read(64))

        looping = asyncio.create_task(loop())
        await asyncio.sleep(0)
        rest = stream
        for size, turn in [*cuts, (len(stream) + 1, True)]:
            if piece := rest[:size]:
                network.feed_data(piece)
            rest = rest[size:]
            if turn:
                await asyncio.sleep(0)
        network.feed_eof()
        await looping
        await parser.parse(stream)
        return ours, theirs

    ours, theirs = asyncio.run(read())
    assert ours.seen == theirs.seen
    assert ours.pings == theirs.pings


def test_messages_are_handled_without_a_turn_of_the_loop() -> None:
    async def read() -> list[bytes]:
        reader, network, seen = FastParser(Client()), asyncio.StreamReader(), []  # type: ignore[arg-type,var-annotated]
        reader.direct[b"1"] = lambda _subject, _reply, payload, _head: seen.append(payload)
        asyncio_compat.read_ahead(network, reader.take)
        waiting = asyncio.create_task(network.read(64))
        await asyncio.sleep(0)
        whole = message(1, "", b"one", b"") + message(1, "", b"two", b"")
        network.feed_data(whole[:-5])
        network.feed_data(whole[-5:])
        waiting.cancel()
        return seen

    assert asyncio.run(read()) == [b"one", b"two"]


@pytest.mark.parametrize("garbage", [b"MSG a 1 x\r\n", b"NONSENSE\r\n", b"x" * 5_000])
def test_what_is_no_nats_is_refused(garbage: bytes) -> None:
    async def read() -> None:
        await FastParser(Client()).parse(garbage)  # type: ignore[arg-type]

    if garbage.startswith(b"x"):
        asyncio.run(
            read()
        )  # as nats-py does: it may be the beginning of a line; the connection's pings decide
    else:
        with pytest.raises(ProtocolError):
            asyncio.run(read())


def test_a_handler_that_fails_does_not_stop_the_reading() -> None:
    async def read() -> list[bytes]:
        reader, seen = FastParser(Client()), []  # type: ignore[arg-type,var-annotated]

        def handle(_subject: str, _reply: str, payload: bytes, _head: bytes) -> None:
            seen.append(payload)
            if payload == b"bad":
                raise ValueError

        reader.direct[b"1"] = handle
        await reader.parse(message(1, "", b"bad", b"") + message(1, "", b"good", b""))
        return seen

    assert asyncio.run(read()) == [b"bad", b"good"]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("cut", [3, 12, 17])
def test_half_a_message_of_a_connection_that_broke_is_forgotten(cut: int, at_once: bool) -> None:
    """It would go before the first message of the new connection: garbage, or a message that is lost."""

    async def read() -> list[bytes]:
        reader, seen = FastParser(Client()), []  # type: ignore[arg-type,var-annotated]
        reader.direct[b"1"] = lambda _subject, _reply, payload, _head: seen.append(payload)
        old, new = message(1, "", b"of the old", b"")[:cut], message(1, "", b"of the new", b"")
        if at_once:
            assert reader.take(old) == b""
            reader.reset()
            assert reader.take(new) == b""
        else:
            await reader.parse(old)
            reader.reset()
            await reader.parse(new)
        return seen

    assert asyncio.run(read()) == [b"of the new"]
