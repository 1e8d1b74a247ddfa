"""Track the last relay passed on of each session and call, and collect the acknowledgements for the gateways. No I/O.

The relays of one session for one call are passed on in the order of their numbers and without a gap. One that comes
after a gap is dropped, and its gateway is asked to retransmit what is not acknowledged.
"""

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from itertools import islice

from shared import subjects
from shared.contracts.relays import Acks
from shared.subjects import ReceiptSubject

FLOWS_MAX = 100_000
"""Flows, each of one session and one call, whose last number is kept; the longest idle are dropped first."""
ENTRIES_MAX = 2_000
"""Entries of one acknowledgement message."""

Key = tuple[str, str]
"""(session, call token)"""


class SequenceCheck(Enum):
    """Decisions about a relay that was received."""

    NEXT = "pass it on"
    REPEAT = "pass it on once more: its earlier copy may be lost"
    DUPLICATE = "drop it: it was passed on"
    GAP = "drop it: the one before it was not received"


class SequenceTracker:
    """The relay numbers of one instance.

    ``flows_max``, ``entries_max``: see :data:`FLOWS_MAX`, :data:`ENTRIES_MAX`.
    """

    def __init__(self, *, flows_max: int = FLOWS_MAX, entries_max: int = ENTRIES_MAX) -> None:
        self._flows_max = flows_max
        self._entries_max = entries_max
        self._last: OrderedDict[Key, int] = OrderedDict()
        self._done: dict[str, dict[Key, tuple[int, int]]] = {}
        self._gaps: dict[str, set[Key]] = {}

    def check(self, key: Key, receipt: ReceiptSubject) -> SequenceCheck:
        """Return what to do with a relay. For a duplicate or a gap, note what its gateway has to be sent."""
        last = self._last.get(key, 0)
        if receipt.last > last:
            if last + 1 < receipt.number and receipt.flags & subjects.FOLLOWS:
                self.request_retransmission(key, receipt)
                return SequenceCheck.GAP
            return SequenceCheck.NEXT
        if receipt.flags & subjects.REDELIVER:
            return SequenceCheck.REPEAT
        self._note(key, receipt, receipt.last)
        return SequenceCheck.DUPLICATE

    def count_passed_on(self, key: Key, receipt: ReceiptSubject) -> int:
        """Return how many of the relays of one message were passed on before."""
        return max(0, self._last.get(key, 0) + 1 - receipt.number)

    def acknowledge(self, key: Key, receipt: ReceiptSubject) -> None:
        """Note that a relay was passed on, or refused: its gateway need not retransmit it."""
        number, last = receipt.last, self._last
        if number >= last.get(key, 0):
            last[key] = number
        last.move_to_end(key)
        if len(last) > self._flows_max:
            last.popitem(last=False)
        self._note(key, receipt, number)

    def mark_passed_on(self, key: Key, number: int) -> None:
        """Note that another instance has passed this relay on."""
        self._last[key] = max(number, self._last.get(key, 0))

    def report_progress(self, key: Key, receipt: ReceiptSubject) -> None:
        """Have the gateway informed that a relay was received which may take a while."""
        self._note(key, receipt, 0)

    def request_retransmission(self, key: Key, receipt: ReceiptSubject) -> None:
        """Have the gateway retransmit what is not acknowledged."""
        self._gaps.setdefault(receipt.gateway, set()).add(key)

    def _note(self, key: Key, receipt: ReceiptSubject, number: int) -> None:
        done = self._done.get(receipt.gateway)
        if done is None:
            done = self._done[receipt.gateway] = {}
        if number or key not in done:
            done[key] = (number, receipt.attempt)

    def __bool__(self) -> bool:
        """True if there are acknowledgements, or requests to retransmit, to send."""
        return bool(self._done or self._gaps)

    def take_acks(self, by: str) -> Iterator[tuple[str, Acks]]:
        """Take what is collected: pairs of a gateway and a message for it. ``by``: this instance."""
        done, self._done = self._done, {}
        gaps, self._gaps = self._gaps, {}
        for gateway in {**done, **gaps}:
            entries = iter(
                [(*key, number, attempt) for key, (number, attempt) in done.get(gateway, {}).items()]
            )
            missed = iter(gaps.get(gateway, ()))
            while True:
                acks = Acks(
                    by=by,
                    done=tuple(islice(entries, self._entries_max)),
                    gaps=tuple(islice(missed, self._entries_max)),
                )
                if not acks.done and not acks.gaps:
                    break
                yield gateway, acks
