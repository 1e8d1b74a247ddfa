"""What a call is: the stored record, the things that can happen to it, and what follows from them. No I/O, no clock."""

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
    """The reasons that the server itself gives for an end; a client may have words of its own."""

    HANGUP = "hangup"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    REJECTED_ELSEWHERE = "rejected_elsewhere"
    CONNECTION_LOST = "connection_lost"
    VOID = "void"
    """Never told to a client: a call that was reserved but never came about."""


SERVER = "server"
"""``by`` of an end that no user brought about."""


class Address(Wire):
    """Where a session is reached. The session stays, the gateway may change."""

    session: str
    gateway: str


class Unanswered(NamedTuple):
    """Rings in a row of this caller that this callee did not answer, and the revision of that record."""

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
    """The callee's devices that ring, or rang until it was over, in the order they began to."""
    call_type: CallType
    metadata: Any = None
    created_at: Millis
    expires_at: Millis
    accepted_at: Millis | None = None
    ended_at: Millis | None = None
    ended_by: str | None = None
    reason: str | None = None
    caused_by: str
    """Request id of the last change of state: the same request again is the same deed, not another."""
    moved_by: str = ""
    """The same of the last change of an address, which must not hide that of a change of state."""
    rung_by: tuple[str, ...] = ()
    """Request ids by which devices began to ring after the call was placed: each is told, also if it is tried again."""
    holds: tuple[int, int] = (0, 0)
    """Revisions of the caller's and the callee's hold, so that releasing them needs no read."""
    unanswered: Unanswered = NEVER_UNANSWERED
    """Of this caller and callee, as the call was placed."""

    def peer_of(self, user: str) -> str:
        """The other user."""
        return self.callee if user == self.caller else self.caller

    def held_by(self, session: str) -> HeldCall | None:
        """The call as ``session`` takes part in it or rings for it; ``None`` if it does neither."""
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
    """Who does something to a call, seen from the call."""

    CALLER = "caller"
    """The session that placed the call."""
    CALLER_DEVICE = "caller's other device"
    CALLEE = "callee"
    """The session that accepted; while ringing, every session of the callee."""
    CALLEE_DEVICE = "callee's other device"
    SERVER = "server"


class InputKind(StrEnum):
    """What can happen to a call."""

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
"""Relayed client events → what they are to the machine."""


@dataclass(frozen=True, slots=True)
class CallInput:
    """Something that happens to a call. ``at`` is the address it came from; ``None`` for the server."""

    kind: InputKind
    cause: str
    user: str | None = None
    at: Address | None = None
    reason: str | None = None
    resumed: bool = False
    """Of ``attached``: the device has missed nothing of what it was sent."""


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: deliver ``payload`` as ``event`` to one session."""

    to: Address
    event: Event
    payload: Wire


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a happening makes of a call: the record to store (the same object if nothing changes) and what to send.

    ``relay_to``: where an offer, answer or candidate goes.
    """

    call: Call
    sends: tuple[Send, ...] = ()
    relay_to: tuple[Address, ...] = ()
