"""Define stamps, batches and acknowledgements of relays between services.

A relay may be passed on twice, because a callcore may stop before it acknowledges. So each carries the sending session
and its number as the last key of its JSON, also in the mailbox: ``"relay":"<session>.<number>"``. Gateways remove it
before a client sees it, and drop copies by it.

Candidates that a gateway sends as a batch are one message, each on a line of its own; no JSON here has line breaks.
"""

from collections.abc import Iterator
from typing import NamedTuple

from shared import subjects
from shared.contracts.wire import Wire

LINE = b"\n"
TOGETHER_MAX = 16
"""Relays in one message."""
TOGETHER_BYTES = 16 * 1024

_KEY = b',"relay":"'
_new = tuple.__new__  # a named tuple's own takes three times as long


class Acks(Wire):
    """``acks.<gateway>``. ``by``: the callcore instance that sends it. Calls are subject tokens.

    ``done``: (session, call, number, attempt): of this attempt (a digit), the relay and all before it need no
    retransmission; number 0 says only that they were received. ``gaps``: (session, call): callcore dropped a relay
    that came out of order. ``lost``: sessions with a relay that was acknowledged but did not arrive.
    """

    by: str
    done: tuple[tuple[str, str, int, int], ...] = ()
    gaps: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()


class RelaysHeard(Wire):
    """The answer to ``heard.<session>``: the relays that a client had received.

    ``relays``: sending session → number of its last one.
    """

    relays: dict[str, int]


def stamp(payload: bytes, session: str, number: int) -> bytes:
    """Return ``payload`` (a JSON object that is not empty) with its stamp."""
    return b'%b,"relay":"%b.%d"}' % (payload[:-1], session.encode(), number)


class Stamped(NamedTuple):
    """The parsed stamp of a relay, and the payload without it, as the client receives it."""

    session: str
    number: int
    bare: bytes


def stamped(payload: bytes) -> Stamped | None:
    """Return the stamp and bare payload of a relay, with ``seq`` or without; ``None`` if it has no stamp."""
    at = payload.rfind(_KEY)
    if at < 0:
        return None
    begin = at + len(_KEY)
    end = payload.index(b'"', begin)
    session, _, number = payload[begin:end].decode().rpartition(".")
    return _new(Stamped, (session, int(number), payload[:at] + payload[end + 1 :]))


def apart(reply: str, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Split a batch into relays: yield the receipt subject and payload of each."""
    gateway, session, number, attempt, flags, more = subjects.receipt_of(reply)
    if not more:
        yield reply, payload
        return
    for n, line in enumerate(payload.split(LINE)):
        yield subjects.receipt(gateway, session, number + n, attempt, flags), line
        flags = subjects.FOLLOWS


def without_first(reply: str, payload: bytes, count: int) -> tuple[str, bytes]:
    """Return the receipt subject and payload of a batch without its first ``count`` relays."""
    gateway, session, number, attempt, _, more = subjects.receipt_of(reply)
    # The flags are those of the first relay. One that follows a relay that was passed on has this flag and no other.
    left = subjects.receipt(gateway, session, number + count, attempt, subjects.FOLLOWS, more - count)
    return left, LINE.join(payload.split(LINE)[count:])
