"""Relays that call control has not acknowledged yet, or has of late: all flows of a gateway, within bounds.

Pure: no I/O and no clock; time arrives as ``now`` (seconds, monotonic).
"""

import itertools
from collections import deque
from collections.abc import Iterator

from services.gateway.relay.send_window import KEEP_SECONDS, WINDOW, OutstandingRelay, SendWindow
from shared.errors import Unavailable

RELAYS_MAX = 16_384
BYTES_MAX = 32 * 1024 * 1024
SHARE = 4
"""From half of these two on, a session may have one part in so many of what is free."""
LOOK_EVERY = 64
"""Relays, from there on, after which it is looked again whether some need not be kept any more."""
FLOW_MAX = 4_096
"""Relays of one session for one call."""
GIVE_UP_SECONDS = 10.0
"""How old a relay may become without an acknowledgement."""


class SendBuffer:
    """All flows of a gateway, by session and call token."""

    def __init__(self) -> None:
        self._flows: dict[tuple[str, str], SendWindow] = {}
        self._sessions: dict[str, list[SendWindow]] = {}
        self._waiting: dict[SendWindow, None] = {}
        """All of which something is not acknowledged, and some of which nothing is."""
        self._resting: deque[tuple[float, SendWindow]] = deque()
        """(when to look, flow) of the others, and of some that are such no longer."""
        self._highest = 0
        self._looked = 0
        self.count = 0
        self.size = 0

    def __iter__(self) -> Iterator[SendWindow]:
        return iter(list(self._flows.values()))

    def get(self, session: str, token: str) -> SendWindow | None:
        """The flow of a session for a call."""
        return self._flows.get((session, token))

    def ready(self, session: str, token: str, size: int) -> SendWindow | None:
        """The flow, if one more relay of it, of ``size`` bytes, raises no question.

        ``None`` says nothing: there may be no such flow, or :meth:`check_room` or its client's haste stand against it.
        """
        flow = self._flows.get((session, token))
        if flow is None or flow.last - flow.acked >= WINDOW or self._half_full(size):
            return None
        return flow

    def of(self, session: str) -> list[SendWindow]:
        """The flows of a session."""
        return self._sessions.get(session, [])

    def open(self, session: str, call: str, clock: int, now: float) -> SendWindow:
        """Begin a flow. ``clock``: microseconds since the epoch, so that numbers grow where a session moves to."""
        flow = SendWindow(session, call, max(clock, self._highest + 1), now)
        self._flows[session, flow.token] = flow
        self._waiting[flow] = None
        self._sessions.setdefault(session, []).append(flow)
        return flow

    def find(self, session: str, number: int) -> SendWindow | None:
        """The flow that a relay is in, or was in of late."""
        for flow in self._sessions.get(session, ()):
            if flow.queue and flow.queue[0].number <= number <= flow.last:
                return flow
        return None

    def check_room(self, session: str, flow: SendWindow | None, size: int) -> None:
        """Raises :class:`Unavailable` if there is no room for a relay of ``size`` bytes."""
        if flow is not None and flow.last - flow.acked >= FLOW_MAX and flow.count_waiting() >= FLOW_MAX:
            raise Unavailable("Too many relays are waiting")
        if self._half_full(size):  # said before it is full, to be quick
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

    def number_after_move(self, flow: SendWindow, clock: int) -> int:
        """The number of the next relay of a flow whose session has moved: above those it got elsewhere.

        ``clock``: microseconds since the epoch.
        """
        return max(flow.last + 1, self._highest + 1, clock)

    def add(self, flow: SendWindow, sent: OutstandingRelay, now: float) -> str:
        """Take a relay whose number is the flow's next. Its marks, if it is published now."""
        before, number, follows = flow.previous, sent.number, flow.last > flow.acked
        flow.moved = False
        if not follows:
            flow.progress = now
            self._waiting[flow] = None
        flow.queue.append(sent)
        flow.previous = sent
        flow.last = number
        self.count += 1
        self.size += len(sent.payload)
        if number > self._highest:
            self._highest = number
        return flow.marks(sent, before, follows=follows)

    def doubt(self, flow: SendWindow) -> None:
        """What was acknowledged of a flow may be lost all the same."""
        flow.doubt()
        self._waiting[flow] = None

    def waiting(self, now: float) -> list[SendWindow]:
        """The flows of which something is not acknowledged. The others are looked at less often from now on."""
        waiting, still = list(self._waiting), []
        for flow in waiting:
            if flow.waiting:
                still.append(flow)
                continue
            del self._waiting[flow]
            if not flow.resting:
                flow.resting = True
                self._resting.append((now + KEEP_SECONDS, flow))
        return still

    def tidy(self, now: float) -> None:
        """Forget what was acknowledged long enough ago of flows of which nothing waits. Looks at few of them."""
        resting = self._resting
        while resting and resting[0][0] <= now:
            _, flow = resting.popleft()
            flow.resting = False
            if flow.waiting or self._flows.get((flow.session, flow.token)) is not flow:
                continue
            self.trim(flow, now)
            if flow.queue:
                flow.resting = True
                resting.append((now + KEEP_SECONDS, flow))

    def void(self, sent: OutstandingRelay) -> None:
        """Let nobody have this relay any more, though its number stays in its place."""
        self.size -= len(sent.payload)
        sent.payload = b""

    def trim(self, flow: SendWindow, now: float) -> None:
        """Drop what has been acknowledged for long enough, and the flow if nothing is left of it."""
        self._drop(flow, flow.settled(now))
        if not flow.queue:
            self._waiting.pop(flow, None)
            del self._flows[flow.session, flow.token]
            flows = self._sessions[flow.session]
            flows.remove(flow)
            if not flows:
                del self._sessions[flow.session]

    def _drop(self, flow: SendWindow, number: int) -> None:
        queue = flow.queue
        while queue and queue[0].number <= number:
            self.count -= 1
            self.size -= len(queue.popleft().payload)

    def give_up(self, flow: SendWindow, now: float) -> list[OutstandingRelay]:
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

    def _too_old(self, flow: SendWindow, before: float) -> Iterator[OutstandingRelay]:
        return itertools.takewhile(lambda sent: sent.born < before, flow.queue)
