"""Relays for clients of this gateway: each written once and in order, however often it was passed on."""

from services.gateway.clients.registry import Socket
from shared import subjects
from shared.contracts.client import RELAYED
from shared.contracts.relays import stamped
from shared.messaging.mailbox import MailboxMessage, seq_of
from shared.subjects import STARTS

MISSED_MAX = 1_024
"""Senders from which something is missed, remembered until they are told."""
_RELAYED = frozenset(RELAYED)


class ReceiveOrder:
    """Keeps in each socket which relays it has had, and notes which gateways have to send some again."""

    def __init__(self) -> None:
        self._missed: dict[str, set[str]] = {}
        self._count = 0

    def take(self, socket: Socket, event: str, payload: bytes, reply: str = "") -> bytes | None:
        """What is to be written to ``socket`` of a letter.

        Empty: nothing, the client has had it. ``None``: nothing, for one before it is missed; both come again.
        ``reply``: the letter's receipt subject, empty for one that comes from a mailbox.
        """
        relay = stamped(payload) if event in _RELAYED else None
        if relay is not None:
            session, number, payload = relay
            kept = socket.positions.senders.get(session)
            if kept is not None and number <= kept[-1]:
                return b""
            due = number == kept[-1] + 1 if kept is not None else not socket.caught_up
            if reply and not due:
                receipt = subjects.receipt_of(reply)
                if not receipt.flags & STARTS:
                    self._miss(receipt.gateway, session)
                    return None
        seq = seq_of(payload)
        if seq <= socket.seq:
            # Two callcores passed it on, and the one whose letter comes later minted its seq earlier.
            seq = socket.seq + 1
            payload = b"%b:%d}" % (payload[: payload.rindex(b":")], seq)
        socket.seq = seq
        if relay is not None:
            socket.positions.note(session, number, seq)
        return payload

    def had(self, socket: Socket, letter: MailboxMessage, since: int) -> None:
        """Record a letter of the mailbox that the client has got elsewhere.

        ``since``: the ``seq`` up to which it has got everything.
        """
        relay = stamped(letter.payload) if letter.event in _RELAYED else None
        if relay is not None and relay.number > socket.positions.last(relay.session):
            socket.positions.note(relay.session, relay.number, since)
        socket.seq = max(socket.seq, letter.seq)

    def _miss(self, gateway: str, session: str) -> None:
        if self._count < MISSED_MAX:
            sessions = self._missed.setdefault(gateway, set())
            self._count += session not in sessions
            sessions.add(session)

    def take_missed(self) -> dict[str, set[str]]:
        """Sending gateway → sessions of whose relays one is missed, noted since the last time."""
        missed, self._missed, self._count = self._missed, {}, 0
        return missed
