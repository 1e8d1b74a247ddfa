"""Relays between services: the stamp by which copies of one are known, and the acknowledgements.

A relay may be passed on twice, because whoever passed it on died before saying so. So each carries the sending session
and its number as the last key of its JSON, also in the mailbox: ``"relay":"<session>.<number>"``. Gateways take it out
before a client sees it.
"""

from shared.contracts.wire import Wire

_KEY = b',"relay":"'


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


def stamp(payload: bytes, session: str, number: int) -> bytes:
    """``payload`` (a JSON object that is not empty) with its stamp."""
    return b'%b,"relay":"%b.%d"}' % (payload[:-1], session.encode(), number)


def stamp_of(payload: bytes) -> tuple[str, int] | None:
    """``(session, number)`` of a relay, as it was sent or with ``seq`` behind; ``None`` for one without a stamp."""
    begin = payload.rfind(_KEY)
    if begin < 0:
        return None
    begin += len(_KEY)
    session, _, number = payload[begin : payload.index(b'"', begin)].decode().rpartition(".")
    return session, int(number)


def unstamped(payload: bytes) -> bytes:
    """``payload`` as the client is to see it."""
    begin = payload.rindex(_KEY)
    return payload[:begin] + payload[payload.index(b'"', begin + len(_KEY)) + 1 :]
