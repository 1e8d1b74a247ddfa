"""Record which relays a client was sent: numbers by sender, each with its ``seq``. No I/O and no clock."""

from array import array
from collections.abc import Mapping

SENDERS_MAX = 16
KEPT_MAX = 128
"""Relays of one sender whose ``seq`` is kept; twice that at most."""


class RelayPositions:
    """Records the relays written to one client.

    A client that resumes names the last ``seq`` that it has received, which may be older than the last one written.
    So the ``seq`` of each of the last relays is kept.
    """

    __slots__ = ("_since", "_upto", "senders")

    def __init__(self) -> None:
        self.senders: dict[str, array[int]] = {}
        """Sending session → ``seq`` and number of its last relays, alternating: the last item is the last number."""
        self._since = 0
        self._upto = 0

    def begin(self, received: Mapping[str, int], *, since: int, upto: int) -> None:
        """Start with the relays that the client has received on other sockets.

        ``received``: sending session → number, as of the ``seq`` ``since``. ``upto``: the ``seq`` of ``user:joined``.
        """
        self._since, self._upto = since, upto
        for sender, number in received.items():
            if number > self.last(sender):
                self.senders.pop(sender, None)
                self.note(sender, number, since)

    def last(self, sender: str) -> int:
        """Return the number of the last relay of a sender; ``-1`` if there was none."""
        kept = self.senders.get(sender)
        return kept[-1] if kept is not None else -1

    def note(self, sender: str, number: int, seq: int) -> None:
        """Record a relay that is written with ``seq``; both only grow. With too many senders the first is discarded."""
        kept = self.senders.get(sender)
        if kept is None:
            while len(self.senders) >= SENDERS_MAX:
                del self.senders[next(iter(self.senders))]
            kept = self.senders[sender] = array("Q")
        kept.append(seq)
        kept.append(number)
        if len(kept) > 4 * KEPT_MAX:
            self._since = max(self._since, kept[2 * KEPT_MAX])
            del kept[: 2 * KEPT_MAX]

    def at(self, seq: int, written: int) -> dict[str, int] | None:
        """Return sending session → number of the last relay that the client had received with ``seq``.

        ``written``: the ``seq`` written to it last. ``None`` if ``seq`` was written elsewhere, or is too old.
        """
        if not self._since <= seq <= max(self._upto, written):
            return None
        received: dict[str, int] = {}
        for sender, kept in self.senders.items():
            for at in range(len(kept) - 2, -1, -2):
                if kept[at] <= seq:
                    received[sender] = kept[at + 1]
                    break
        return received
