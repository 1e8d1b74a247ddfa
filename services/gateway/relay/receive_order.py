"""Put relays for clients of this gateway in order: each is written once, however often it is delivered."""

from services.gateway.clients.registry import Socket
from shared import subjects
from shared.contracts.client import RELAYED
from shared.contracts.relays import stamped
from shared.messaging.mailbox import MailboxMessage, seq_of
from shared.subjects import STARTS

MISSED_MAX = 1_024
"""Senders with missed relays that are remembered until their gateways are asked to retransmit."""
_RELAYED = frozenset(RELAYED)


class ReceiveOrder:
    """Tracks in each socket the last relay of each sender, and which gateways have to retransmit."""

    def __init__(self) -> None:
        self._missed: dict[str, set[str]] = {}
        self._count = 0

    def take(self, socket: Socket, event: str, payload: bytes, reply: str = "") -> bytes | None:
        """Return the payload of a delivery to be written to ``socket``, without its stamp.

        Empty: the client has had it. ``None``: a relay before it is missed, and both will be retransmitted.
        ``reply``: the delivery's receipt subject, empty for a message that was read from a mailbox.
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
            # Two callcores passed it on, and the one whose delivery arrives later minted its seq earlier.
            seq = socket.seq + 1
            payload = b"%b:%d}" % (payload[: payload.rindex(b":")], seq)
        socket.seq = seq
        if relay is not None:
            socket.positions.note(session, number, seq)
        return payload

    def skip(self, socket: Socket, message: MailboxMessage, since: int) -> None:
        """Record a mailbox message that the client has received elsewhere.

        ``since``: the ``seq`` up to which it has received everything.
        """
        relay = stamped(message.payload) if message.event in _RELAYED else None
        if relay is not None and relay.number > socket.positions.last(relay.session):
            socket.positions.note(relay.session, relay.number, since)
        socket.seq = max(socket.seq, message.seq)

    def _miss(self, gateway: str, session: str) -> None:
        if self._count < MISSED_MAX:
            sessions = self._missed.setdefault(gateway, set())
            self._count += session not in sessions
            sessions.add(session)

    def take_missed(self) -> dict[str, set[str]]:
        """Take what was noted: sending gateway → sessions of which a relay is missed."""
        missed, self._missed, self._count = self._missed, {}, 0
        return missed
