"""Relays for clients of this gateway: each written once and in order, however often it was passed on."""

from services.gateway.sessions import Socket
from shared import subjects
from shared.contracts.client import RELAYED
from shared.contracts.relays import stamp_of, unstamped

SENDERS_MAX = 16
MISSED_MAX = 1_024
"""Senders from which something is missed, remembered until they are told."""
_RELAYED = frozenset(RELAYED)


class Heard:
    """Keeps in each socket which relays it has had, and notes which gateways have to send some again."""

    def __init__(self) -> None:
        self._missed: dict[str, set[str]] = {}
        self._count = 0

    def take(self, socket: Socket, event: str, payload: bytes, reply: str = "") -> bytes | None:
        """What is to be written to ``socket`` of a letter.

        Empty: nothing, the client has had it. ``None``: nothing, for one before it is missed; both come again.
        ``reply``: the letter's receipt subject, empty for one that comes from a mailbox.
        """
        if event not in _RELAYED:
            return payload
        stamp = stamp_of(payload)
        if stamp is None:
            return payload
        session, number = stamp
        relays = socket.relays_heard
        last = relays.get(session)
        if last is None:
            while len(relays) >= SENDERS_MAX:
                del relays[next(iter(relays))]
        elif number <= last:
            return b""
        elif reply and number != last + 1:
            receipt = subjects.receipt_of(reply)
            if subjects.STARTS not in receipt.marks:
                self._miss(receipt.gateway, session)
                return None
        relays[session] = number
        return unstamped(payload)

    def _miss(self, gateway: str, session: str) -> None:
        if self._count < MISSED_MAX:
            sessions = self._missed.setdefault(gateway, set())
            self._count += session not in sessions
            sessions.add(session)

    def take_missed(self) -> dict[str, set[str]]:
        """Sending gateway → sessions of whose relays one is missed, noted since the last time."""
        missed, self._missed, self._count = self._missed, {}, 0
        return missed
