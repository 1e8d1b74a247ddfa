"""Define the record of a call, and the messages about it between callcore instances."""

from enum import StrEnum
from typing import Any, NamedTuple

from shared.contracts.calls import HeldCall
from shared.contracts.client import CallType
from shared.contracts.rpc import Request
from shared.contracts.wire import CallId, Millis, Wire


class State(StrEnum):
    """The states of a call. ``ended`` is terminal."""

    RINGING = "ringing"
    ACCEPTED = "accepted"
    ENDED = "ended"


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


class CallCommand(Request):
    """``rpc.calls.happen.<callcore>``: apply an input to a call there. ``request_id`` is the cause of the input.

    ``initiated``: send the author ``call:initiated`` first, because their own call became this one (glare).
    """

    call: CallId
    kind: InputKind
    user: str | None = None
    at: Address | None = None
    reason: str | None = None
    resumed: bool = False
    initiated: bool = False


class CommandResult(Wire):
    """The call after the command, and the targets of the relay that came with it."""

    call: Call
    relay_to: tuple[Address, ...] = ()


class StateAnnouncement(Wire):
    """``relay.<callcore>.<call>.-.-.-.state``: a call and its revision.

    ``born``: the call was created just now, so it has no early media. ``rings``: the device that has just begun to
    ring, and is sent the early media.
    """

    call: Call
    revision: int
    born: bool = False
    rings: Address | None = None
