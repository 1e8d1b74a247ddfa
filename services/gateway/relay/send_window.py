"""The relays of one session for one call: their numbers, which of them are acknowledged, and how each is marked.

Pure: no I/O and no clock; time arrives as ``now`` (seconds, monotonic).
"""

import itertools
from collections import deque
from dataclasses import dataclass

from shared import subjects
from shared.ids import encode

WINDOW = 1_024
"""Relays of a flow that are not acknowledged, past which its client waits; call control acknowledges every 30 ms."""
WINDOW_SECONDS = 0.5
"""How long without an acknowledgement it waits: then there is something that waiting does not help."""
RESEND_SECONDS = 2.0
"""How long an acknowledgement may take before all that is not acknowledged is sent again."""
AGAIN_SECONDS = 0.5
"""What is asked for once more sooner than this after it was sent again is not sent again at once."""
KEEP_SECONDS = 2.0
"""How long at least a relay is kept that is acknowledged: what became of it may get lost with a NATS server."""
_TAILS_MAX = 16


@dataclass(slots=True, eq=False)
class OutstandingRelay:
    """A relay. ``payload`` is empty once it is void: refused, or told its client to be lost."""

    number: int
    event: str
    tail: str
    """Its subject behind the instance it goes to."""
    payload: bytes
    wanted: bool
    born: float
    first: int = -1
    """The attempt in which it was published for the first time; ``-1`` before that."""
    starts: bool = False
    """Whether its number does not follow that of the one before it."""


class SendWindow:
    """The relays of one session for one call.

    Their numbers follow each other without a gap, but where the session has been at another gateway in between.
    """

    __slots__ = (
        "_kept", "_kept_at", "acked", "again_to", "attempt", "behind", "call", "doubted", "generation",
        "last", "missed", "moved", "owner", "previous", "probing", "progress", "pumped_at", "queue", "resting",
        "session", "tails", "token",
    )  # fmt: skip

    def __init__(self, session: str, call: str, first: int, now: float) -> None:
        self.session = session
        self.call = call
        self.token = encode(call)
        self.queue: deque[OutstandingRelay] = deque()
        self.last = first - 1
        """The number of the relay added last."""
        self.acked = first - 1
        """The number up to which they are acknowledged, refused or given up."""
        self.doubted = first - 1
        """The number up to which they were acknowledged before that came into doubt."""
        self.previous: OutstandingRelay | None = None
        self.owner: str | None = None
        """The instance they go to; ``None`` while there is none."""
        self.generation = -1
        """Which members the owner was found among."""
        self.attempt = 0
        """Which time it is that they are sent; a digit, so that what comes back of earlier times is known."""
        self.again_to = first - 1
        """The number up to which they are to be passed on even if that was done."""
        self.behind = False
        """Whether all that is not acknowledged is to be sent again before anything new."""
        self.missed = False
        """Whether call control has asked for that."""
        self.moved = False
        """Whether the session may have been at another gateway since the last relay, with numbers from there."""
        self.pumped_at = -AGAIN_SECONDS
        """When that was done last."""
        self.probing = False
        """Whether that was done because no acknowledgement came."""
        self.progress = now
        self._kept = first - 1
        self._kept_at = now
        self.resting = False
        """Whether the outbox has it among those of which nothing waits."""
        self.tails: dict[tuple[str, str], str] = {}
        """(receiver, event) → :meth:`tail`, as far as it has been asked for."""

    @property
    def waiting(self) -> bool:
        """Whether something is not acknowledged."""
        return self.last > self.acked

    def crowded(self, now: float) -> bool:
        """Whether its client sends faster than call control takes."""
        return self.last - self.acked >= WINDOW and now < self.progress + WINDOW_SECONDS

    def count_waiting(self) -> int:
        """How many are not acknowledged."""
        return sum(sent.number > self.acked for sent in self.queue)

    def owes(self) -> bool:
        """Whether something that is not acknowledged is still to get through."""
        return self.waiting and any(sent.payload for sent in self.queue if sent.number > self.acked)

    def tail(self, user: str, to: str, event: str) -> str:
        """The subject of such a relay behind the instance it goes to."""
        tail = self.tails.get((to, event))
        if tail is None:
            if len(self.tails) >= _TAILS_MAX:
                self.tails.clear()
            subject = subjects.relay("", self.call, user, self.session, to, event)
            tail = self.tails[to, event] = subject.split(".", 2)[2]
        return tail

    def after(self, number: int) -> list[tuple[OutstandingRelay | None, OutstandingRelay]]:
        """The relays past ``number``, each with the one before it, as far as that is kept."""
        return [
            (a, b) for a, b in itertools.pairwise((None, *self.queue)) if b is not None and b.number > number
        ]

    def marks(self, sent: OutstandingRelay, before: OutstandingRelay | None, *, follows: bool) -> str:
        """The marks of a relay that is published now. ``before``: the one before it; ``None`` for one long done.

        ``follows``: that one is not acknowledged.
        """
        starts = sent.starts or before is None or not before.payload
        again = sent.number <= self.again_to
        if not (starts or again or sent.wanted):
            return f"{self.attempt}{subjects.FOLLOWS}" if follows else f"{self.attempt}"
        return (
            f"{self.attempt}"
            f"{subjects.FOLLOWS if follows and not sent.starts else ''}"
            f"{subjects.STARTS if starts else ''}"
            f"{subjects.AGAIN if again else ''}"
            f"{subjects.WANTED if sent.wanted else ''}"
        )

    def begin(self, now: float) -> None:
        """All that is not acknowledged is being sent again from now on."""
        self.attempt = (self.attempt + 1) % 10
        self.behind = self.missed = False
        self.progress = self.pumped_at = now

    def acknowledge(self, number: int, attempt: int, now: float) -> None:
        """Call control has done all up to ``number`` of what was sent the ``attempt``-th time."""
        if attempt == self.attempt and number > self.acked and not self.behind:
            self.acked = min(number, self.last)
            self.progress = now
            self.probing = False

    def doubt(self) -> None:
        """What was acknowledged may be lost all the same: all that is still kept is to be sent again."""
        if self.queue:
            self.doubted = max(self.doubted, self.acked)
            self.acked = self.queue[0].number - 1
            self.again_to = self.last
            self.behind = True

    def stalled(self, now: float) -> bool:
        """Whether it is time to send again because no acknowledgement came, or because call control has asked."""
        if not self.waiting or self.behind:
            return False
        if self.missed:
            return now >= self.pumped_at + AGAIN_SECONDS
        return now >= self.progress + RESEND_SECONDS

    def settled(self, now: float) -> int:
        """The number up to which they were acknowledged :data:`KEEP_SECONDS` ago."""
        if self._kept > self.acked:
            self._kept = self.acked
        kept = self._kept
        if now < self._kept_at + KEEP_SECONDS:
            return self.queue[0].number - 1 if self.queue else kept
        self._kept, self._kept_at = self.acked, now
        return kept
