"""Parse Engine.IO frames and Socket.IO packets of clients strictly. Pure.

Both are checked before the libraries see them, because neither library handles malformed input as a normal case.
"""

import json
import math
import re
from typing import Any, NamedTuple, NoReturn

PACKETS_PER_POST = 10_000
"""Packets of one polling request. A client sends all packets that it has queued in one request."""

BINARY = "Binary data is not supported"
TOO_DEEP = "Nested too deeply"

PONG = "3"
PONGS_PER_POST = 4
CLOSE = "1"
UPGRADE, PROBE = "5", "2probe"
DEPTH_MAX = 64
"""Depth of nested lists and objects."""
_ACK_DIGITS = 15
_EVENT = re.compile(r"2(?:/,)?([0-9]*)(?=\[)", re.ASCII)
_CONNECT = re.compile(r"0(?:/[^,]*(?:,|$))?")
_NAMESPACE = re.compile(r"[0-6](?:[0-9]+-)?(/[^,]*)", re.ASCII)
# Texts are skipped possessively, so no input makes it backtrack. A text without an end is no JSON anyway.
_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"?|([\[{\]}])', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Malformed(Exception):
    """Raised if a frame or packet is malformed; the text is for the client. ``ack_id``: of its event, if read."""

    def __init__(self, what: str, ack_id: int | None = None) -> None:
        super().__init__(what)
        self.ack_id = ack_id


class EventPacket(NamedTuple):
    """An event: its name, its arguments, and the id of its acknowledgement, if it wants one."""

    name: str
    args: list[Any]
    ack_id: int | None


class ConnectPacket(NamedTuple):
    """A request to connect to the default namespace."""


class DisconnectPacket(NamedTuple):
    """The client disconnects on purpose."""


class ForeignPacket(NamedTuple):
    """A packet of another namespace than the default. ``connect``: True if it requests to connect."""

    namespace: str
    connect: bool


Packet = EventPacket | ConnectPacket | DisconnectPacket | ForeignPacket


def check_frame(frame: str, *, polling: bool = False) -> None:
    """Check an Engine.IO frame. Raises :class:`Malformed` for one that Engine.IO cannot handle."""
    if frame in (PONG, CLOSE) or (frame in (UPGRADE, PROBE) and not polling):
        return
    if frame[:1] == "b":
        raise Malformed(BINARY)
    if len(frame) < 2 or frame[0] != "4":
        raise Malformed("Not an Engine.IO message")
    if frame[1] not in "0123456":
        raise Malformed("Not a Socket.IO packet")


def parse(packet: str, depth: int = DEPTH_MAX) -> Packet:
    """Parse a Socket.IO packet, without the Engine.IO type in front. Raises :class:`Malformed`.

    ``depth``: of nested lists and objects, at most.
    """
    kind = packet[:1]
    if (head := _NAMESPACE.match(packet)) is not None and head[1].partition("?")[0] != "/":
        return ForeignPacket(head[1], kind == "0")
    if kind == "2":
        return _event(packet, depth)
    if kind == "0":
        return _connect(packet, depth)
    if packet in ("1", "1/,"):
        return DisconnectPacket()
    if kind in ("5", "6"):
        raise Malformed(BINARY)
    raise Malformed("Not a packet that a client sends")


def _event(packet: str, depth: int) -> EventPacket:
    head = _EVENT.match(packet)
    if head is None or len(head[1]) > _ACK_DIGITS:
        raise Malformed("Not an event of the default namespace")
    ack_id = int(head[1]) if head[1] else None
    args = _loads(packet[head.end() :], depth, ack_id)
    if not isinstance(args, list) or not args or not isinstance(args[0], str):
        raise Malformed("An event is a list that begins with its name", ack_id)
    return EventPacket(args[0], args[1:], ack_id)


def _connect(packet: str, depth: int) -> ConnectPacket:
    head = _CONNECT.match(packet)
    assert head is not None, "the pattern takes any packet that begins with 0"
    rest = packet[head.end() :]
    if rest and not isinstance(_loads(rest, depth), dict):
        raise Malformed("auth: must be an object")
    return ConnectPacket()


def _loads(text: str, depth: int, ack_id: int | None = None) -> Any:
    """Decode JSON. Raises :class:`Malformed` for NaN, Infinity, lone surrogates, huge numbers and deep nesting."""
    try:
        if _deeper(text, depth):
            raise RecursionError
        value = _decode(text)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Malformed("Lone surrogates are not text", ack_id) from None
    except RecursionError:
        raise Malformed(TOO_DEEP, ack_id) from None
    except ValueError:
        raise Malformed("Not JSON", ack_id) from None
    return value


def _deeper(text: str, most: int) -> bool:
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for bracket in _NESTING.findall(text):
        if bracket:
            depth += 1 if bracket in "[{" else -1
            if depth > most:
                return True
    return False


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("out of range")
    return number


# NaN and Infinity are no JSON, and 1e999 reads as Infinity: a peer's browser could not read them back.
_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode
