"""Reading what clients send: Engine.IO frames and Socket.IO packets, strictly. Pure; raises nothing but its own error."""

import json
import math
import re
from enum import Enum
from typing import Any, NamedTuple, NoReturn

from shared.errors import BadRequest

_HEAD = re.compile(r"(?:(/[^,\[{]*),?)?([0-9]*)", re.ASCII)
_ATTACHMENTS = re.compile(r"[0-9]{1,10}-", re.ASCII)
_ACK_DIGITS_MAX = 16
"""More than 2**53 has: a JavaScript client counts its acknowledgements up from 0."""

BINARY = "Binary data is not supported"


class BadPacket(BadRequest):
    """A packet that cannot be read. ``ack``: the acknowledgement it asked for, as far as that could be read."""

    def __init__(self, message: str, ack: str | None = None) -> None:
        super().__init__(message)
        self.ack = ack


class Frame(Enum):
    """The Engine.IO packets that a client may send once it is connected."""

    CLOSE = "1"
    PONG = "3"
    MESSAGE = "4"
    IGNORED = "6"


def frame_of(text: str) -> Frame:
    """What a frame is. Raises :class:`BadPacket` for what a client has no reason to send."""
    match text[:1]:
        case "4" if text[1:2].isascii() and text[1:2].isdigit():
            return Frame.MESSAGE
        case "3":
            return Frame.PONG
        case "1":
            return Frame.CLOSE
        case "5" | "6":
            return Frame.IGNORED
        case "b":
            raise BadPacket(BINARY)
    raise BadPacket("Malformed packet")


class Kind(Enum):
    """The Socket.IO packets that a client may send."""

    CONNECT = "0"
    DISCONNECT = "1"
    EVENT = "2"
    ACK = "3"


class Packet(NamedTuple):
    """``ack``: the digits that the acknowledgement must carry. ``event`` and ``args`` are an event's."""

    kind: Kind
    namespace: str = "/"
    ack: str | None = None
    event: str = ""
    args: tuple[Any, ...] = ()


def parse(text: str) -> Packet:
    """The Socket.IO packet in an Engine.IO message. Raises :class:`BadPacket`."""
    kind, rest = text[:1], text[1:]
    binary = kind in ("5", "6")
    if binary:
        rest = _ATTACHMENTS.sub("", rest, count=1)
    head = _HEAD.match(rest)
    assert head is not None  # it matches the empty text
    namespace = (head[1] or "/").partition("?")[0]
    if len(head[2]) > _ACK_DIGITS_MAX:
        raise BadPacket("Malformed packet")
    ack = head[2] or None
    if binary:
        raise BadPacket(BINARY, ack if kind == "5" else None)
    if kind == "2":
        if namespace != "/":
            raise BadPacket("Unknown namespace")
        return _event(rest[head.end() :], ack)
    if kind in ("0", "1", "3"):
        return Packet(Kind(kind), namespace)
    raise BadPacket("Malformed packet")


def _event(text: str, ack: str | None) -> Packet:
    try:
        data = _loads(text)
    except (ValueError, RecursionError):
        raise BadPacket("Malformed JSON", ack) from None
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise BadPacket("Malformed packet", ack)
    return Packet(Kind.EVENT, "/", ack, data[0], tuple(data[1:]))


def _refuse(_: str) -> NoReturn:
    raise ValueError("not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("out of range")
    return number


# NaN and Infinity are no JSON, and 1e999 reads as Infinity: a peer's browser could not read them back.
_loads = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode
