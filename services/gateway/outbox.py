"""Relays that call control has not acknowledged yet, and those it has acknowledged of late, in order.

Pure: no I/O and no clock; time arrives as ``now`` (seconds, monotonic). Whoever publishes them asks a flow for the
marks of each.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from shared import subjects
from shared.errors import Unavailable
from shared.ids import encode

RELAYS_MAX = 16_384
BYTES_MAX = 32 * 1024 * 1024
SHARE = 4
"""From half of these two on, a session may have one part in so many of what is free."""
LOOK_EVERY = 64
"""Relays, from there on, after which it is looked again whether some need not be kept any more."""
FLOW_MAX = 4_096
"""Relays of one session for one call."""
WINDOW = 1_024
"""Relays of a flow that are not acknowledged, past which its client waits; call control acknowledges every 30 ms."""
WINDOW_SECONDS = 0.5
"""How long without an acknowledgement it waits: then there is something that waiting does not help."""
RESEND_SECONDS = 2.0
"""How long an acknowledgement may take before all that is not acknowledged is sent again."""
AGAIN_SECONDS = 0.5
"""What is asked for once more sooner than this after it was sent again is not sent again at once."""
GIVE_UP_SECONDS = 10.0
"""How old a relay may become without an acknowledgement."""
KEEP_SECONDS = 2.0
"""How long at least a relay is kept that is acknowledged: what became of it may get lost with a NATS server."""
_TAILS_MAX = 16


@dataclass(slots=True, eq=False)
class Sent:
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


class Flow:
    """The relays of one session for one call.

    Their numbers follow each other without a gap, but where the session has been at another gateway in between.
    """

    __slots__ = (
        "_kept", "_kept_at", "_tails", "acked", "again_to", "attempt", "behind", "call", "doubted", "generation",
        "last", "missed", "moved", "owner", "previous", "probing", "progress", "pumped_at", "queue",
        "session", "token",
    )  # fmt: skip

    def __init__(self, session: str, call: str, first: int, now: float) -> None:
        self.session = session
        self.call = call
        self.token = encode(call)
        self.queue: deque[Sent] = deque()
        self.last = first - 1
        """The number of the relay added last."""
        self.acked = first - 1
        """The number up to which they are acknowledged, refused or given up."""
        self.doubted = first - 1
        """The number up to which they were acknowledged before that came into doubt."""
        self.previous: Sent | None = None
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
        self._tails: dict[tuple[str, str], str] = {}

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
        tail = self._tails.get((to, event))
        if tail is None:
            if len(self._tails) >= _TAILS_MAX:
                self._tails.clear()
            subject = subjects.relay("", self.call, user, self.session, to, event)
            tail = self._tails[to, event] = subject.split(".", 2)[2]
        return tail

    def after(self, number: int) -> list[tuple[Sent | None, Sent]]:
        """The relays past ``number``, each with the one before it, as far as that is kept."""
        return [
            (a, b) for a, b in itertools.pairwise((None, *self.queue)) if b is not None and b.number > number
        ]

    def marks(self, sent: Sent, before: Sent | None, *, follows: bool) -> str:
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


class Outbox:
    """All flows of a gateway, by session and call token."""

    def __init__(self) -> None:
        self._flows: dict[tuple[str, str], Flow] = {}
        self._sessions: dict[str, list[Flow]] = {}
        self._highest = 0
        self._looked = 0
        self.count = 0
        self.size = 0

    def __iter__(self) -> Iterator[Flow]:
        return iter(list(self._flows.values()))

    def get(self, session: str, token: str) -> Flow | None:
        """The flow of a session for a call."""
        return self._flows.get((session, token))

    def of(self, session: str) -> list[Flow]:
        """The flows of a session."""
        return self._sessions.get(session, [])

    def open(self, session: str, call: str, clock: int, now: float) -> Flow:
        """Begin a flow. ``clock``: microseconds since the epoch, so that numbers grow where a session moves to."""
        flow = Flow(session, call, max(clock, self._highest + 1), now)
        self._flows[session, flow.token] = flow
        self._sessions.setdefault(session, []).append(flow)
        return flow

    def find(self, session: str, number: int) -> Flow | None:
        """The flow that a relay is in, or was in of late."""
        for flow in self._sessions.get(session, ()):
            if flow.queue and flow.queue[0].number <= number <= flow.last:
                return flow
        return None

    def check_room(self, session: str, flow: Flow | None, size: int) -> None:
        """Raises :class:`Unavailable` if there is no room for a relay of ``size`` bytes."""
        if flow is not None and flow.last - flow.acked >= FLOW_MAX and flow.count_waiting() >= FLOW_MAX:
            raise Unavailable("Too many relays are waiting")
        if (
            self.count >= RELAYS_MAX // 2 or self.size + size > BYTES_MAX // 2
        ):  # half full; said here, to be quick
            if self._looked % LOOK_EVERY == 0:
                for other in self:
                    self._drop(other, other.acked)
            self._looked += 1
            if self._half_full(size):
                self._check_share(session, size)
            else:
                self._looked = 0

    def _half_full(self, size: int) -> bool:
        return self.count >= RELAYS_MAX // 2 or self.size + size > BYTES_MAX // 2

    def _check_share(self, session: str, size: int) -> None:
        """No session may have more than a part of what is free, so that there is always something for the others."""
        for flow in self.of(session):
            self._drop(flow, flow.acked)
        if not self._half_full(size):
            return
        queues = [flow.queue for flow in self.of(session)]
        count = sum(map(len, queues))
        mine = sum(len(sent.payload) for queue in queues for sent in queue)
        if count >= (RELAYS_MAX - self.count) // SHARE or mine + size > (BYTES_MAX - self.size) // SHARE:
            raise Unavailable("Too many relays are waiting")

    def number_after_move(self, flow: Flow, clock: int) -> int:
        """The number of the next relay of a flow whose session has moved: above those it got elsewhere.

        ``clock``: microseconds since the epoch.
        """
        return max(flow.last + 1, self._highest + 1, clock)

    def add(self, flow: Flow, sent: Sent, now: float) -> None:
        """Take a relay whose number is the flow's next."""
        number = sent.number
        flow.moved = False
        if flow.last <= flow.acked:
            flow.progress = now
        flow.queue.append(sent)
        flow.last = number
        self.count += 1
        self.size += len(sent.payload)
        if number > self._highest:
            self._highest = number

    def void(self, sent: Sent) -> None:
        """Let nobody have this relay any more, though its number stays in its place."""
        self.size -= len(sent.payload)
        sent.payload = b""

    def trim(self, flow: Flow, now: float) -> None:
        """Drop what has been acknowledged for long enough, and the flow if nothing is left of it."""
        self._drop(flow, flow.settled(now))
        if not flow.queue:
            del self._flows[flow.session, flow.token]
            flows = self._sessions[flow.session]
            flows.remove(flow)
            if not flows:
                del self._sessions[flow.session]

    def _drop(self, flow: Flow, number: int) -> None:
        queue = flow.queue
        while queue and queue[0].number <= number:
            self.count -= 1
            self.size -= len(queue.popleft().payload)

    def give_up(self, flow: Flow, now: float) -> list[Sent]:
        """What has become too old without an acknowledgement: dropped. Those of it whose clients do not know yet."""
        old = [s for s in self._too_old(flow, now - GIVE_UP_SECONDS) if s.number > flow.acked]
        if old:
            flow.acked = old[-1].number
            untold = [sent for sent in old if sent.payload and sent.number > flow.doubted]
            for sent in old:
                self.void(sent)
            self._drop(flow, flow.acked)
            return untold
        return old

    def _too_old(self, flow: Flow, before: float) -> Iterator[Sent]:
        return itertools.takewhile(lambda sent: sent.born < before, flow.queue)
