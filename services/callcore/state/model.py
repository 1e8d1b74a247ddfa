"""The stored record of a call, the inputs of the call machine, and its outcomes. No I/O, no clock."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from shared.contracts.calls import HeldCall
from shared.contracts.client import CallType, Event
from shared.contracts.wire import Millis, Wire


class State(StrEnum):
    """The states of a call. ``ended`` is terminal."""

    RINGING = "ringing"
    ACCEPTED = "accepted"
    ENDED = "ended"


class Reason(StrEnum):
    """The reasons that the server gives for an end; a client may send a reason of its own."""

    HANGUP = "hangup"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    REJECTED_ELSEWHERE = "rejected_elsewhere"
    CONNECTION_LOST = "connection_lost"
    VOID = "void"
    """Never sent to a client: a call that was reserved but never created."""


SERVER = "server"
"""``by`` of an end that no user caused."""


class Address(Wire):
    """The address of a session. The session stays, the gateway may change."""

    session: str
    gateway: str


class Unanswered(NamedTuple):
    """Consecutive rings of this caller that this callee did not answer, and the revision of that record."""

    rings: int
    revision: int


NEVER_UNANSWERED = Unanswered(0, 0)


class Call(Wire):
    """Value of ``call.<call>`` in bucket ``calls``. Times are milliseconds since the epoch."""

    call: str
    state: State
    caller: str
    callee: str
    caller_at: Address
    callee_at: Address | None = None
    """The device that accepted; ``None`` until then."""
    ringing: tuple[Address, ...] = ()
    """The callee's devices that ring, or rang until the call was answered or ended, in the order they began to."""
    call_type: CallType
    metadata: Any = None
    created_at: Millis
    expires_at: Millis
    accepted_at: Millis | None = None
    ended_at: Millis | None = None
    ended_by: str | None = None
    reason: str | None = None
    caused_by: str
    """Request id of the last change of state: a repeated request is the same change, not another."""
    moved_by: str = ""
    """Request id of the last change of an address, which must not hide that of a change of state."""
    rung_by: tuple[str, ...] = ()
    """Request ids by which devices began to ring after the call was created: each is notified, also when repeated."""
    holds: tuple[int, int] = (0, 0)
    """Revisions of the caller's and the callee's reservation, so that releasing them needs no read."""
    unanswered: Unanswered = NEVER_UNANSWERED
    """Of this caller and callee, when the call was created."""

    def peer_of(self, user: str) -> str:
        """Return the other user."""
        return self.callee if user == self.caller else self.caller

    def for_session(self, session: str) -> HeldCall | None:
        """Return the call as ``session`` takes part in it or rings; ``None`` if it does neither."""
        if self.state is State.ENDED:
            return None
        calling = session == self.caller_at.session
        party = calling or (self.callee_at is not None and session == self.callee_at.session)
        rings = self.state is State.RINGING and any(session == at.session for at in self.ringing)
        if not (party or rings):
            return None
        return HeldCall(
            call=self.call,
            peer=self.callee if calling else self.caller,
            call_type=self.call_type,
            state="ringing" if self.state is State.RINGING else "accepted",
            created_at=self.created_at,
            party=party,
        )


class Role(StrEnum):
    """The author of an input, as the call sees them."""

    CALLER = "caller"
    """The session that called."""
    CALLER_DEVICE = "caller's other device"
    CALLEE = "callee"
    """The session that accepted; while ringing, every session of the callee."""
    CALLEE_DEVICE = "callee's other device"
    SERVER = "server"


class InputKind(StrEnum):
    """The kinds of input that a call takes."""

    ACCEPT = "accept"
    REJECT = "reject"
    END = "end"
    OFFER = "offer"
    ANSWER = "answer"
    CANDIDATE = "candidate"
    ATTACHED = "attached"
    LEFT = "left"
    TIMEOUT = "timeout"


RELAY_KINDS = {
    Event.OFFER: InputKind.OFFER,
    Event.ANSWER: InputKind.ANSWER,
    Event.CANDIDATE: InputKind.CANDIDATE,
}
"""Relayed client events → inputs of the machine."""


@dataclass(frozen=True, slots=True)
class CallInput:
    """An input to a call. ``at``: the address of its author; ``None`` for the server. ``cause``: its request id."""

    kind: InputKind
    cause: str
    user: str | None = None
    at: Address | None = None
    reason: str | None = None
    resumed: bool = False
    """Of ``attached``: True if the device has received all that it was sent."""


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: deliver ``payload`` as ``event`` to one session."""

    to: Address
    event: Event
    payload: Wire


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an input: the record to store (the same object if nothing changes) and what to send.

    ``relay_to``: the targets of an offer, answer or candidate.
    """

    call: Call
    sends: tuple[Send, ...] = ()
    relay_to: tuple[Address, ...] = ()
