"""Relays between services: the stamp by which copies of one are known, and the acknowledgements.

A relay may be passed on twice, because whoever passed it on died before saying so. So each carries the sending session
and its number as the last key of its JSON, also in the mailbox: ``"relay":"<session>.<number>"``. Gateways take it out
before a client sees it.

Candidates that leave a gateway together travel in one message, each on a line of its own; no JSON here has line breaks.
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
    """``acks.<gateway>``. ``by``: the instance that says so. Calls are subject tokens.

    ``done``: (session, call, number, attempt): of what was sent that time (a digit), this relay and all before it need
    not be sent any more; number 0 says only that they have come. ``gaps``: (session,
    call): a relay came before its turn and was dropped. ``lost``: sessions of whose relays one did not arrive although
    it was acknowledged.
    """

    by: str
    done: tuple[tuple[str, str, int, int], ...] = ()
    gaps: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()


class RelaysHeard(Wire):
    """The answer to ``heard.<session>``: the relays that a client had got.

    ``relays``: sending session → number of its last one.
    """

    relays: dict[str, int]


def stamp(payload: bytes, session: str, number: int) -> bytes:
    """``payload`` (a JSON object that is not empty) with its stamp."""
    return b'%b,"relay":"%b.%d"}' % (payload[:-1], session.encode(), number)


class Stamped(NamedTuple):
    """What a stamp says, and the payload as the client is to see it."""

    session: str
    number: int
    bare: bytes


def stamped(payload: bytes) -> Stamped | None:
    """A relay taken apart, as it was sent or with ``seq`` behind; ``None`` for one without a stamp."""
    at = payload.rfind(_KEY)
    if at < 0:
        return None
    begin = at + len(_KEY)
    end = payload.index(b'"', begin)
    session, _, number = payload[begin:end].decode().rpartition(".")
    return _new(Stamped, (session, int(number), payload[:at] + payload[end + 1 :]))


def apart(reply: str, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """The relays of one message as if each had come by itself: its receipt subject, and its payload."""
    gateway, session, number, attempt, flags, more = subjects.receipt_of(reply)
    if not more:
        yield reply, payload
        return
    for n, line in enumerate(payload.split(LINE)):
        yield subjects.receipt(gateway, session, number + n, attempt, flags), line
        flags = subjects.FOLLOWS


def without_first(reply: str, payload: bytes, count: int) -> tuple[str, bytes]:
    """What is left of a message of several relays without the first of them: its receipt subject, and its payload."""
    gateway, session, number, attempt, _, more = subjects.receipt_of(reply)
    # The flags are those of the first relay. One that follows a relay that was passed on has this flag and no other.
    left = subjects.receipt(gateway, session, number + count, attempt, subjects.FOLLOWS, more - count)
    return left, LINE.join(payload.split(LINE)[count:])
