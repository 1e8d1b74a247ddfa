"""Track the relays of one session for one call: numbers, acknowledgements, losses and retransmissions.

Pure: no I/O and no clock; time arrives as ``now`` (seconds, monotonic). The window decides what must be published and
with which flags; its callers publish, and report each outcome by one of the transitions below (docs/adr/0034).

========================  =====================================================================================
transition                meaning
========================  =====================================================================================
``added``                 the client has sent a relay, which gets the next number
``sent``                  a relay is published to the owner
``send_failed``           a relay could not be published
``retransmission_begun``  all outstanding relays are about to be published again
``acknowledged``          the owner has passed on all relays up to a number
``refused``               the owner has refused a relay
``withdrawn``             the client gets an error for a relay, which must not be delivered any more
``gap_reported``          the owner has dropped a relay because the one before it did not arrive
``loss_suspected``        acknowledged relays may be lost all the same
``owner_changed``         another callcore owns the call, or none does
``owner_lost``            NATS has reported that the owner is not there
``session_moved``         the session may have been at another gateway
``renumbered``            the first number above those that the session got there
``timer_fired``           time has passed
``expired``               relays have become too old without an acknowledgement
========================  =====================================================================================

A transition that its caller must not make raises :class:`InvalidTransition`. One that may come late from the bus
(``acknowledged``, ``refused``, ``gap_reported``, ``loss_suspected``) changes nothing if it no longer applies.
"""

import itertools
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from shared import subjects
from shared.contracts.relays import stamp
from shared.ids import encode
from shared.subjects import FOLLOWS, REDELIVER, STARTS, WANTS_RECEIPT

WINDOW = 1_024
"""Outstanding relays of a window past which its client waits; callcore acknowledges every 30 ms."""
WINDOW_SECONDS = 0.5
"""Seconds without an acknowledgement after which the client no longer waits, because waiting does not help."""
RESEND_SECONDS = 2.0
"""Seconds without an acknowledgement after which all outstanding relays are retransmitted."""
AGAIN_SECONDS = 0.5
"""Seconds between two retransmissions that were asked for, and for which a probe waits for an answer."""
KEEP_SECONDS = 2.0
"""Seconds for which an acknowledged relay is kept at least: its delivery may be lost with a NATS server."""
ATTEMPTS = 10
"""Attempts are counted modulo this, because the attempt is one digit in the reply subject."""
_TAILS_MAX = 16


class InvalidTransition(Exception):
    """Raised if the state of the window does not allow a transition: an error of the program."""


class WindowState(Enum):
    """The state of a window, as its owner's side of the relays is known."""

    IDLE = "all relays are acknowledged"
    IN_FLIGHT = "relays are outstanding, and new ones are published as they come"
    RETRANSMIT = "all outstanding relays must be published again before a new one"


@dataclass(slots=True, eq=False)
class OutstandingRelay:
    """A relay in a window. Only :class:`SendWindow` changes its fields."""

    number: int
    event: str
    tail: str
    """The subject without its first two tokens, ``relay`` and the owner."""
    payload: bytes
    """Empty once the relay is void: refused, withdrawn or expired."""
    wants_receipt: bool
    """True if the client asked for an acknowledgement, so that the receiving gateway sends a receipt."""
    created_at: float
    first_attempt: int = -1
    """The attempt in which it was published first; -1 before that."""
    starts: bool = False
    """True if its number does not follow that of the relay before it."""


class Freed(NamedTuple):
    """Counts the relays that a window has forgotten, and the bytes of payloads that it has freed."""

    relays: int
    size: int


class SendWindow:
    """The relays of one session for one call: those not acknowledged, and those acknowledged recently.

    Numbers follow each other without a gap, except where the session has been at another gateway in between.
    """

    __slots__ = (
        "_acknowledged_to", "_attempt", "_gap_reported", "_generation", "_kept_at", "_kept_to", "_last_number",
        "_needs_retransmission", "_owner", "_previous", "_probing", "_progress_at", "_redeliver_to", "_relays",
        "_renumbered_to", "_retransmitted_at", "_sent_first", "_session_moved", "_suspected_to", "_tails",
        "call", "session", "token",
    )  # fmt: skip

    def __init__(self, session: str, call: str, first: int, now: float) -> None:
        self.session = session
        self.call = call
        self.token = encode(call)
        """The call as a token of a subject."""
        self._relays: deque[OutstandingRelay] = deque()
        self._last_number = first - 1
        self._acknowledged_to = first - 1
        """The number up to which relays are acknowledged or expired."""
        self._suspected_to = first - 1
        """The number up to which relays were acknowledged before a loss was suspected."""
        self._redeliver_to = first - 1
        """The number up to which the owner must pass relays on even if it has done so."""
        self._previous: OutstandingRelay | None = None
        """The relay that was added last."""
        self._sent_first: OutstandingRelay | None = None
        """The relay that was sent last for the first time, unless a retransmission has begun since."""
        self._owner: str | None = None
        self._generation = -1
        """The generation of the membership in which the owner was looked up."""
        self._attempt = 0
        self._needs_retransmission = False
        self._gap_reported = False
        self._session_moved = False
        self._renumbered_to = first
        """The number of the next relay once the session has moved."""
        self._probing = False
        """True if the last retransmission was caused by silence, so that the owner may be dead."""
        self._progress_at = now
        self._retransmitted_at = -AGAIN_SECONDS
        self._kept_to = first - 1
        self._kept_at = now
        self._tails: dict[tuple[str, str], str] = {}
        """(receiver, event) → the tail of the subject of such a relay."""

    # --- state for callers -------------------------------------------------------------------------------------

    @property
    def state(self) -> WindowState:
        """Return the state."""
        if self._needs_retransmission:
            return WindowState.RETRANSMIT
        return WindowState.IN_FLIGHT if self.has_outstanding else WindowState.IDLE

    @property
    def owner(self) -> str | None:
        """Return the callcore instance that relays go to; ``None`` while there is none."""
        return self._owner

    @property
    def generation(self) -> int:
        """Return the generation of the membership in which the owner was looked up; -1 before that."""
        return self._generation

    @property
    def attempt(self) -> int:
        """Return the attempt (0 to 9) with which relays are published; each retransmission begins the next."""
        return self._attempt

    @property
    def needs_retransmission(self) -> bool:
        """True if all outstanding relays must be published again before a new one."""
        return self._needs_retransmission

    @property
    def has_moved(self) -> bool:
        """True if the session may have been at another gateway since the last relay, and got numbers there."""
        return self._session_moved

    @property
    def last_number(self) -> int:
        """Return the number of the relay that was added last."""
        return self._last_number

    @property
    def relays(self) -> tuple[OutstandingRelay, ...]:
        """Return all relays that are kept, oldest first."""
        return tuple(self._relays)

    @property
    def is_empty(self) -> bool:
        """True if no relay is kept."""
        return not self._relays

    @property
    def has_outstanding(self) -> bool:
        """True if a relay is not acknowledged."""
        return self._last_number > self._acknowledged_to

    @property
    def unacknowledged(self) -> int:
        """Return how many numbers are not acknowledged; more than relays where numbers have a gap."""
        return self._last_number - self._acknowledged_to

    def count_outstanding(self) -> int:
        """Return how many relays are not acknowledged."""
        return sum(relay.number > self._acknowledged_to for relay in self._relays)

    def has_undelivered(self) -> bool:
        """Return True if a relay that is not acknowledged has a payload to be delivered."""
        return self.has_outstanding and any(
            relay.payload for relay in self._relays if relay.number > self._acknowledged_to
        )

    def takes_at_once(self, generation: int) -> bool:
        """Return True if the next relay needs neither room, nor another owner or series of numbers.

        ``generation``: that of the membership now.
        """
        return (
            self._last_number - self._acknowledged_to < WINDOW
            and self._generation == generation
            and not self._session_moved
        )

    def is_full(self, now: float) -> bool:
        """Return True if the client must wait, because it sends faster than callcore acknowledges."""
        return self.unacknowledged >= WINDOW and now < self._progress_at + WINDOW_SECONDS

    def is_acknowledged(self, number: int) -> bool:
        """Return True if callcore has this relay, and its loss is not suspected."""
        return number <= self._acknowledged_to

    def was_acknowledged(self, number: int) -> bool:
        """Return True if callcore has had this relay, even if its loss was suspected later."""
        return number <= max(self._acknowledged_to, self._suspected_to)

    def find(self, number: int) -> OutstandingRelay | None:
        """Return the relay of this number; ``None`` if it is not kept."""
        return next((relay for relay in self._relays if relay.number == number), None)

    def holds(self, number: int) -> bool:
        """Return True if the number lies between the oldest relay that is kept and the newest."""
        return bool(self._relays) and self._relays[0].number <= number <= self._last_number

    # --- transitions -------------------------------------------------------------------------------------------

    def added(
        self, user: str, to: str, event: str, payload: bytes, wants_receipt: bool, now: float
    ) -> tuple[OutstandingRelay, int | None]:
        """Keep a new relay, stamped with the next number, until it is acknowledged.

        Return it with its flags, or without flags if outstanding relays must be published again before it.
        """
        number, starts, previous = self._last_number + 1, False, self._previous
        if self._session_moved:
            number, starts, self._session_moved = self._renumbered_to, True, False
        tail = self._tails.get((to, event)) or self._new_tail(user, to, event)
        stamped = stamp(payload, self.session, number)
        relay = OutstandingRelay(number, event, tail, stamped, wants_receipt, now, -1, starts)
        follows = self._last_number > self._acknowledged_to
        if not follows:
            self._progress_at = now
        self._relays.append(relay)
        self._previous = relay
        self._last_number = number
        if self._needs_retransmission:
            return relay, None
        if previous is not None and previous.payload and not (starts or wants_receipt):
            return relay, FOLLOWS if follows else 0  # as _flags returns it for most relays, without a call
        return relay, self._flags(relay, previous, follows=follows)

    def sent(self, relay: OutstandingRelay) -> tuple[str, int]:
        """Record that a relay is published now. Return the owner and the attempt to publish it with.

        If publishing fails, :meth:`send_failed` is to follow. Raises :class:`InvalidTransition` if there is no owner,
        if the relay is not outstanding, or if older relays must be published before it.
        """
        owner, attempt = self._owner, self._attempt
        if owner is None or self._needs_retransmission:
            raise InvalidTransition(f"relay {relay.number} sent in {self.state}, owner {owner}")
        if not self._acknowledged_to < relay.number <= self._last_number:
            raise InvalidTransition(f"relay {relay.number} is not outstanding")
        if relay.first_attempt < 0:
            relay.first_attempt = attempt
            self._sent_first = relay
        return owner, attempt

    def send_failed(self, relay: OutstandingRelay) -> None:
        """Require a retransmission, because the relay that was sent last could not be published."""
        self._needs_retransmission = True
        if relay is self._sent_first:
            relay.first_attempt = -1

    def retransmission_begun(self, now: float) -> list[tuple[OutstandingRelay, int]]:
        """Begin the next attempt. Return all outstanding relays in order, each with its flags, to be published now.

        Raises :class:`InvalidTransition` if there is no owner.
        """
        if self._owner is None:
            raise InvalidTransition("retransmission without an owner")
        self._attempt = (self._attempt + 1) % ATTEMPTS
        self._needs_retransmission = self._gap_reported = False
        self._progress_at = self._retransmitted_at = now
        self._sent_first = None
        first = self._acknowledged_to
        outstanding = [
            (before, relay)
            for before, relay in itertools.pairwise((None, *self._relays))
            if relay is not None and relay.number > first
        ]
        return [
            (relay, self._flags(relay, before, follows=n > 0))
            for n, (before, relay) in enumerate(outstanding)
        ]

    def acknowledged(self, number: int, attempt: int, now: float) -> None:
        """Record that the owner has passed on all relays up to ``number`` that were published with ``attempt``.

        Changes nothing for an earlier attempt, an older number, or while a retransmission is required.
        """
        if attempt == self._attempt and number > self._acknowledged_to and not self._needs_retransmission:
            self._acknowledged_to = min(number, self._last_number)
            self._progress_at = now
            self._probing = False

    def refused(self, number: int, attempt: int, *, call_over: bool) -> tuple[bool, int]:
        """Void a relay that the owner has refused; its number stays in its place.

        ``call_over``: True if the reason is that sender and receiver have no call. A relay that was published more than
        once may have been passed on before its call ended; then that is no refusal.

        Return True if the client does not know yet, and the bytes that were freed.
        """
        relay = self.find(number)
        if relay is None:
            return False, 0
        repeated = attempt != relay.first_attempt
        unknown = bool(relay.payload) and number > self._suspected_to and not (repeated and call_over)
        return unknown, self._void(relay)

    def withdrawn(self, relay: OutstandingRelay) -> int:
        """Void a relay; its number stays in its place. Return the bytes that were freed.

        Raises :class:`InvalidTransition` if it is not outstanding: the receiver may have it by then.
        """
        if not self._acknowledged_to < relay.number <= self._last_number:
            raise InvalidTransition(f"relay {relay.number} is not outstanding")
        return self._void(relay)

    def gap_reported(self) -> None:
        """Retransmit soon, because the owner has dropped a relay that came too early."""
        self._gap_reported = True

    def loss_suspected(self) -> None:
        """Require a retransmission of all relays that are kept, because acknowledged ones may be lost."""
        if self._relays:
            self._suspected_to = max(self._suspected_to, self._acknowledged_to)
            self._acknowledged_to = self._relays[0].number - 1
            self._redeliver_to = self._last_number
            self._needs_retransmission = True

    def owner_changed(self, owner: str | None, generation: int) -> None:
        """Send to ``owner`` from now on; outstanding relays must be published again if it is another one.

        ``generation``: that of the membership in which the owner was looked up.
        """
        self._generation = generation
        if owner is None or (owner != self._owner and self.has_outstanding):
            self._needs_retransmission = True
        self._owner = owner

    def owner_lost(self) -> None:
        """Require a retransmission, because the owner did not get a relay. Raises :class:`InvalidTransition`."""
        if self._owner is None:
            raise InvalidTransition("owner lost twice")
        self._needs_retransmission = True

    def session_moved(self) -> None:
        """Make the next relay start a new series of numbers, because the session may have got numbers elsewhere."""
        self._session_moved = True
        self._renumbered_to = self._last_number + 1

    def renumbered(self, number: int) -> None:
        """Start the new series with ``number``.

        Raises :class:`InvalidTransition` if the session has not moved, or if the number is not above all others.
        """
        if not self._session_moved or number <= self._last_number:
            raise InvalidTransition(f"series from {number} after {self._last_number}")
        self._renumbered_to = number

    def timer_fired(self, now: float) -> float | None:
        """Require a retransmission if acknowledgements are overdue, or if a gap was reported.

        Return the time of the last retransmission if that was a probe, and the owner has had time to answer it.
        """
        if self._is_overdue(now):
            self._probing = not self._gap_reported
            self._needs_retransmission = True
        elif self._probing and now > self._retransmitted_at + AGAIN_SECONDS:
            self._probing = False
            return self._retransmitted_at
        return None

    def expired(self, before: float) -> tuple[list[OutstandingRelay], Freed]:
        """Give up outstanding relays that were created earlier than ``before``.

        Return those of which the client does not know yet that they are lost, and what was freed.
        """
        old = [
            relay
            for relay in itertools.takewhile(lambda relay: relay.created_at < before, self._relays)
            if relay.number > self._acknowledged_to
        ]
        if not old:
            return [], Freed(0, 0)
        self._acknowledged_to = old[-1].number
        unknown = [relay for relay in old if relay.payload and relay.number > self._suspected_to]
        size = sum(self._void(relay) for relay in old)
        freed = self.forget_acknowledged()
        return unknown, Freed(freed.relays, freed.size + size)

    def forget_acknowledged(self) -> Freed:
        """Forget all acknowledged relays, to make room. Return what was freed."""
        return self._forget(self._acknowledged_to)

    def forget_settled(self, now: float) -> Freed:
        """Forget relays that were acknowledged :data:`KEEP_SECONDS` ago. Return what was freed."""
        self._kept_to = min(self._kept_to, self._acknowledged_to)
        if now < self._kept_at + KEEP_SECONDS:
            return Freed(0, 0)
        settled, self._kept_to, self._kept_at = self._kept_to, self._acknowledged_to, now
        return self._forget(settled)

    # --- helpers -------------------------------------------------------------------------------------------------

    def _forget(self, number: int) -> Freed:
        relays, count, size = self._relays, 0, 0
        while relays and relays[0].number <= number:
            count += 1
            size += len(relays.popleft().payload)
        return Freed(count, size)

    def _new_tail(self, user: str, to: str, event: str) -> str:
        """Return and remember the subject of a relay without its first two tokens, ``relay`` and the owner."""
        if len(self._tails) >= _TAILS_MAX:
            self._tails.clear()
        subject = subjects.relay("", self.call, user, self.session, to, event)
        tail = self._tails[to, event] = subject.split(".", 2)[2]
        return tail

    @staticmethod
    def _void(relay: OutstandingRelay) -> int:
        size = len(relay.payload)
        relay.payload = b""
        return size

    def _is_overdue(self, now: float) -> bool:
        """Return True if it is time to retransmit what callcore has not acknowledged."""
        if not self.has_outstanding or self._needs_retransmission:
            return False
        if self._gap_reported:
            return now >= self._retransmitted_at + AGAIN_SECONDS
        return now >= self._progress_at + RESEND_SECONDS

    def _flags(self, relay: OutstandingRelay, previous: OutstandingRelay | None, *, follows: bool) -> int:
        """Return the flags of a relay that is published now.

        ``previous``: the relay before it; ``None`` if that is no longer kept. ``follows``: that one is outstanding.
        """
        if previous is None or relay.starts or not previous.payload:
            flags = STARTS if relay.starts or not follows else STARTS | FOLLOWS
        else:
            flags = FOLLOWS if follows else 0
        if relay.number <= self._redeliver_to:
            flags |= REDELIVER
        if relay.wants_receipt:
            flags |= WANTS_RECEIPT
        return flags
