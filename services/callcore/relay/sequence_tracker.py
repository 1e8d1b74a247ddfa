"""What this instance has passed on of each session's relays, and what their gateways are to be told of it. No I/O.

Relays of one session for one call are passed on in the order of their numbers and without a gap: one that comes before
its turn is dropped, and its gateway told to send from where it is acknowledged.
"""

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from itertools import islice

from shared import subjects
from shared.contracts.relays import Acks
from shared.subjects import ReceiptSubject

FLOWS_MAX = 100_000
"""Sessions, each with one call, whose last number is remembered; those idle for longest are forgotten."""
TOLD_AT_ONCE = 2_000
"""Entries of one message at most."""

Key = tuple[str, str]
"""(session, call token)"""


class SequenceCheck(Enum):
    """What is to be done with a relay that has come."""

    ITS = "pass it on"
    AGAIN = "pass it on once more: what became of it before may be lost"
    OVER = "it has been passed on"
    NOT_YET = "one before it has not come"


class SequenceTracker:
    """The numbers of one instance."""

    def __init__(self) -> None:
        self._last: OrderedDict[Key, int] = OrderedDict()
        self._done: dict[str, dict[Key, tuple[int, str]]] = {}
        self._gaps: dict[str, set[Key]] = {}

    def turn(self, key: Key, receipt: ReceiptSubject) -> SequenceCheck:
        """Whether it is a relay's turn. If not, its gateway is to be told."""
        last = self._last.get(key, 0)
        if receipt.last > last:
            if last + 1 < receipt.number and subjects.FOLLOWS in receipt.marks:
                self.missed(key, receipt)
                return SequenceCheck.NOT_YET
            return SequenceCheck.ITS
        if subjects.AGAIN in receipt.marks:
            return SequenceCheck.AGAIN
        self._note(key, receipt, receipt.last)
        return SequenceCheck.OVER

    def over(self, key: Key, receipt: ReceiptSubject) -> int:
        """How many of the relays that came in one message have been passed on."""
        return max(0, self._last.get(key, 0) + 1 - receipt.number)

    def done(self, key: Key, receipt: ReceiptSubject) -> None:
        """A relay has been passed on, or refused: it need not come again."""
        number, known = receipt.last, self._last
        if number >= known.get(key, 0):
            known[key] = number
        known.move_to_end(key)
        if len(known) > FLOWS_MAX:
            known.popitem(last=False)
        self._note(key, receipt, number)

    def known(self, key: Key, number: int) -> None:
        """Another instance has passed this one on."""
        self._last[key] = max(number, self._last.get(key, 0))

    def alive(self, key: Key, receipt: ReceiptSubject) -> None:
        """Have the gateway told that a relay has come which may take a while."""
        self._note(key, receipt, 0)

    def missed(self, key: Key, receipt: ReceiptSubject) -> None:
        """Have the gateway send again what is not acknowledged."""
        self._gaps.setdefault(receipt.gateway, set()).add(key)

    def _note(self, key: Key, receipt: ReceiptSubject, number: int) -> None:
        done = self._done.get(receipt.gateway)
        if done is None:
            done = self._done[receipt.gateway] = {}
        if number or key not in done:
            done[key] = (number, receipt.marks)

    def __bool__(self) -> bool:
        """Whether somebody is to be told something."""
        return bool(self._done or self._gaps)

    def to_tell(self, by: str) -> Iterator[tuple[str, Acks]]:
        """Gateways, and what each is to be told; nothing more is to be told then. ``by``: this instance."""
        done, self._done = self._done, {}
        gaps, self._gaps = self._gaps, {}
        for gateway in {**done, **gaps}:
            entries = iter(
                [
                    (*key, number, subjects.attempt_of(marks))
                    for key, (number, marks) in done.get(gateway, {}).items()
                ]
            )
            missed = iter(gaps.get(gateway, ()))
            while True:
                acks = Acks(
                    by=by,
                    done=tuple(islice(entries, TOLD_AT_ONCE)),
                    gaps=tuple(islice(missed, TOLD_AT_ONCE)),
                )
                if not acks.done and not acks.gaps:
                    break
                yield gateway, acks
