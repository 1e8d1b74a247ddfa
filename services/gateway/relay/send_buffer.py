"""Keep the send windows of a gateway, within bounds of relays and bytes.

Pure: no I/O and no clock; time arrives as ``now`` (seconds, monotonic).
"""

from collections import OrderedDict
from collections.abc import Iterator

from services.gateway.relay.send_window import KEEP_SECONDS, Freed, OutstandingRelay, SendWindow
from shared.errors import Unavailable

RELAYS_MAX = 16_384
BYTES_MAX = 32 * 1024 * 1024
SHARE = 4
"""Once half of either bound is used, a session may use one part in this many of what is free."""
LOOK_EVERY = 64
"""Relays, once half is used, after which all windows are searched again for relays that can be forgotten."""
FLOW_MAX = 4_096
"""Outstanding relays of one window."""
GIVE_UP_SECONDS = 10.0
"""Age in seconds at which a relay without an acknowledgement is given up."""


class SendBuffer:
    """The send windows of a gateway, by session and call token.

    ``count``, ``size``: relays that are kept, and bytes of their payloads.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], SendWindow] = {}
        self._sessions: dict[str, list[SendWindow]] = {}
        self._active: dict[SendWindow, None] = {}
        """All windows with outstanding relays, and some without."""
        self._idle: OrderedDict[SendWindow, float] = OrderedDict()
        """Window without outstanding relays → when to look at it; also some that have outstanding ones again."""
        self._highest = 0
        self._looked = 0
        self.count = 0
        self.size = 0

    def __iter__(self) -> Iterator[SendWindow]:
        return iter(list(self._windows.values()))

    def get(self, session: str, token: str) -> SendWindow | None:
        """Return the window of a session for a call; ``None`` if there is none. ``token``: the call's."""
        return self._windows.get((session, token))

    def ready(self, session: str, token: str, size: int, generation: int) -> SendWindow | None:
        """Return the window if one more relay of ``size`` bytes needs no further check.

        ``None`` says nothing: the window may be missing, full, or of an older ``generation`` of the membership, or
        :meth:`check_room` has to decide.
        """
        window = self._windows.get((session, token))
        if window is None or not window.takes_at_once(generation) or self._half_full(size):
            return None
        return window

    def of(self, session: str) -> list[SendWindow]:
        """Return the windows of a session."""
        return self._sessions.get(session, [])

    def open(self, session: str, call: str, clock: int, now: float) -> SendWindow:
        """Open a window. ``clock``: microseconds since the epoch, so that numbers grow where a session moves to."""
        window = SendWindow(session, call, max(clock, self._highest + 1), now)
        self._windows[session, window.token] = window
        self._active[window] = None
        self._sessions.setdefault(session, []).append(window)
        return window

    def find(self, session: str, number: int) -> SendWindow | None:
        """Return the window that keeps this relay of a session; ``None`` if none does."""
        for window in self._sessions.get(session, ()):
            if window.holds(number):
                return window
        return None

    def check_room(self, session: str, window: SendWindow | None, size: int) -> None:
        """Raise :class:`Unavailable` if there is no room for a relay of ``size`` bytes."""
        if (
            window is not None
            and window.unacknowledged >= FLOW_MAX
            and window.count_outstanding() >= FLOW_MAX
        ):
            raise Unavailable("Too many relays are waiting")
        if self._half_full(size):  # half, so that the decision is made early and is cheap
            if self._looked % LOOK_EVERY == 0:
                for other in self:
                    self._account(other.forget_acknowledged())
            self._looked += 1
            if self._half_full(size):
                self._check_share(session, size)
            else:
                self._looked = 0

    # --- transitions that change the relays kept ---------------------------------------------------------------

    def add(
        self,
        window: SendWindow,
        user: str,
        to: str,
        event: str,
        payload: bytes,
        now: float,
        *,
        wants_receipt: bool = False,
    ) -> tuple[OutstandingRelay, int | None]:
        """Add a relay to a window. Return it with its flags, see :meth:`SendWindow.added`."""
        added = window.added(user, to, event, payload, wants_receipt, now)
        relay = added[0]
        self._active[window] = None
        self.count += 1
        self.size += len(relay.payload)
        if relay.number > self._highest:
            self._highest = relay.number
        return added

    def renumber(self, window: SendWindow, clock: int) -> None:
        """Start a new series of numbers in the window of a session that has moved, above those it got elsewhere.

        ``clock``: microseconds since the epoch.
        """
        window.renumbered(max(window.last_number, self._highest, clock - 1) + 1)

    def suspect_loss(self, window: SendWindow) -> None:
        """Have all relays of a window that are kept retransmitted, because acknowledged ones may be lost."""
        window.loss_suspected()
        self._active[window] = None

    def refuse(self, session: str, number: int, attempt: int, *, call_over: bool) -> bool:
        """Void a relay that its owner has refused. Return True if its client does not know yet.

        ``attempt``, ``call_over``: see :meth:`SendWindow.refused`.
        """
        window = self.find(session, number)
        if window is None:
            return False
        unknown, size = window.refused(number, attempt, call_over=call_over)
        self.size -= size
        return unknown

    def withdraw(self, window: SendWindow, relay: OutstandingRelay) -> None:
        """Void a relay for which its client gets an error, so that it is not delivered later."""
        self.size -= window.withdrawn(relay)

    def expire(self, window: SendWindow, now: float) -> list[OutstandingRelay]:
        """Give up relays of a window that are older than :data:`GIVE_UP_SECONDS`.

        Return those of which the client does not know yet that they are lost.
        """
        unknown, freed = window.expired(now - GIVE_UP_SECONDS)
        self._account(freed)
        return unknown

    def active(self, now: float) -> list[SendWindow]:
        """Return the windows with outstanding relays. The others become idle, and :meth:`tidy` looks after them."""
        active = []
        for window in list(self._active):
            if window.has_outstanding:
                active.append(window)
                continue
            del self._active[window]
            if window not in self._idle:
                self._idle[window] = now + KEEP_SECONDS
        return active

    def tidy(self, now: float) -> None:
        """Forget relays of idle windows that were acknowledged long enough ago. Looks only at windows that are due."""
        idle = self._idle
        while idle and next(iter(idle.values())) <= now:
            window, _ = idle.popitem(last=False)
            if window.has_outstanding or self._windows.get((window.session, window.token)) is not window:
                continue
            self.trim(window, now)
            if not window.is_empty:
                idle[window] = now + KEEP_SECONDS

    def trim(self, window: SendWindow, now: float) -> None:
        """Forget relays that were acknowledged long enough ago, and the window if it keeps none."""
        self._account(window.forget_settled(now))
        if window.is_empty:
            self._active.pop(window, None)
            del self._windows[window.session, window.token]
            windows = self._sessions[window.session]
            windows.remove(window)
            if not windows:
                del self._sessions[window.session]

    def _half_full(self, size: int) -> bool:
        return self.count >= RELAYS_MAX // 2 or self.size + size > BYTES_MAX // 2

    def _check_share(self, session: str, size: int) -> None:
        """Raise :class:`Unavailable` if a session has its part of what is free, so that other sessions get room."""
        windows = self.of(session)
        for window in windows:
            self._account(window.forget_acknowledged())
        if not self._half_full(size):
            return
        relays = [relay for window in windows for relay in window.relays]
        used = sum(len(relay.payload) for relay in relays)
        if (
            len(relays) >= (RELAYS_MAX - self.count) // SHARE
            or used + size > (BYTES_MAX - self.size) // SHARE
        ):
            raise Unavailable("Too many relays are waiting")

    def _account(self, freed: Freed) -> None:
        self.count -= freed.relays
        self.size -= freed.size
