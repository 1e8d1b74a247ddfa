"""The call machine: one table that maps each state, role and kind of input to the rule that applies.

A missing cell is an error, so the table is complete by construction; ``docs/call-states.md`` is generated from it.
Pure: no I/O, no clock. :func:`step` decides; :class:`services.callcore.calls.call_service.CallService` stores, and
:class:`services.callcore.notify.notifier.Notifier` sends.
"""

from typing import NamedTuple

from services.callcore.state import actions
from services.callcore.state.actions import refuse
from services.callcore.state.model import Call, CallInput, InputKind, Outcome, Role, State
from shared.errors import CallNotFound, InvalidState, ReceiverNotFound


class Cell(NamedTuple):
    """One cell of the table: the state that the call can be in afterwards, the rule, and its reason in words."""

    next: State
    rule: actions.Rule
    note: str


# --- the table ----------------------------------------------------------------------------------------------------

_R, _A, _E = State.RINGING, State.ACCEPTED, State.ENDED

_not_caller = "Only the callee can do that; the caller ends a call with call:end"
_not_ringing = "The call is not ringing any more: it was accepted"
_other_device = "The call was accepted on another device"


def _ended_row() -> dict[Role, dict[InputKind, Cell]]:
    """Return the row of the ended state: the same for each role."""
    refused = Cell(_E, refuse(CallNotFound), "the call has ended")
    not_relayed = Cell(_E, refuse(ReceiverNotFound), "the call has ended")
    ignored = Cell(_E, actions.ignore, "the call has ended")
    row = {
        InputKind.ACCEPT: refused,
        InputKind.REJECT: refused,
        InputKind.END: refused,
        InputKind.OFFER: not_relayed,
        InputKind.ANSWER: not_relayed,
        InputKind.CANDIDATE: not_relayed,
        InputKind.ATTACHED: ignored,
        InputKind.LEFT: ignored,
    }
    return {role: row for role in Role if role is not Role.SERVER} | {
        Role.SERVER: {InputKind.TIMEOUT: ignored}
    }


TABLE: dict[State, dict[Role, dict[InputKind, Cell]]] = {
    _R: {
        Role.CALLER: {
            InputKind.ACCEPT: Cell(
                _R, refuse(InvalidState, _not_caller), "the caller cannot accept its own call"
            ),
            InputKind.REJECT: Cell(_R, refuse(InvalidState, _not_caller), "the caller cancels with end"),
            InputKind.END: Cell(_E, actions.cancel, "cancelled"),
            InputKind.OFFER: Cell(_R, actions.to_ringing, "early media: to every ringing device"),
            InputKind.ANSWER: Cell(
                _R, refuse(InvalidState, _not_caller), "an answer accepts, and the caller cannot"
            ),
            InputKind.CANDIDATE: Cell(_R, actions.to_ringing, "early media: to every ringing device"),
            InputKind.ATTACHED: Cell(
                _R,
                actions.move_ringing_caller,
                "the caller's session moved; a client that did not resume is sent its call",
            ),
            InputKind.LEFT: Cell(
                _E, actions.caller_left, "cancelled, or connection_lost if the transport broke"
            ),
        },
        Role.CALLER_DEVICE: {
            InputKind.ACCEPT: Cell(
                _R, refuse(InvalidState, _not_caller), "the caller cannot accept its own call"
            ),
            InputKind.REJECT: Cell(_R, refuse(InvalidState, _not_caller), "the caller cancels with end"),
            InputKind.END: Cell(_E, actions.cancel, "a user may end the call from any device"),
            InputKind.OFFER: Cell(_R, refuse(ReceiverNotFound), "only the calling session sends relays"),
            InputKind.ANSWER: Cell(_R, refuse(ReceiverNotFound), "only the calling session sends relays"),
            InputKind.CANDIDATE: Cell(_R, refuse(ReceiverNotFound), "only the calling session sends relays"),
            InputKind.ATTACHED: Cell(_R, actions.ignore, "not part of the call"),
            InputKind.LEFT: Cell(_R, actions.ignore, "not part of the call"),
        },
        Role.CALLEE: {
            InputKind.ACCEPT: Cell(
                _A, actions.accept, "the first device to accept wins; the others get call:ended"
            ),
            InputKind.REJECT: Cell(_E, actions.reject, "rejected for all devices"),
            InputKind.END: Cell(_E, actions.refuse_by_end, "the callee rejects a ringing call by ending it"),
            InputKind.OFFER: Cell(_R, actions.to_caller, "early media the other way"),
            InputKind.ANSWER: Cell(_A, actions.accept, "an answer is an acceptance"),
            InputKind.CANDIDATE: Cell(_R, actions.to_caller, "early media the other way"),
            InputKind.ATTACHED: Cell(
                _R,
                actions.ring_device,
                "a device that joins, or comes back, rings at once; it gets call:incoming unless it resumed",
            ),
            InputKind.LEFT: Cell(
                _E, actions.ringing_device_left, "other devices ring on; connection_lost if it was the last"
            ),
        },
        Role.SERVER: {InputKind.TIMEOUT: Cell(_E, actions.time_out, "the callee did not answer in time")},
    },
    _A: {
        Role.CALLER: {
            InputKind.ACCEPT: Cell(_A, refuse(InvalidState, _not_ringing), "accepted already"),
            InputKind.REJECT: Cell(
                _A, refuse(InvalidState, _not_ringing), "accepted already; end it instead"
            ),
            InputKind.END: Cell(_E, actions.hang_up, "hangup"),
            InputKind.OFFER: Cell(_A, actions.to_callee, "renegotiation"),
            InputKind.ANSWER: Cell(_A, actions.to_callee, "renegotiation"),
            InputKind.CANDIDATE: Cell(_A, actions.to_callee, "for as long as the call lives"),
            InputKind.ATTACHED: Cell(
                _A, actions.move_caller, "the caller's session moved to another gateway"
            ),
            InputKind.LEFT: Cell(_E, actions.party_left, "hangup, or connection_lost if the transport broke"),
        },
        Role.CALLER_DEVICE: {
            InputKind.ACCEPT: Cell(_A, refuse(InvalidState, _not_ringing), "accepted already"),
            InputKind.REJECT: Cell(
                _A, refuse(InvalidState, _not_ringing), "accepted already; end it instead"
            ),
            InputKind.END: Cell(_E, actions.hang_up, "a user may end the call from any device"),
            InputKind.OFFER: Cell(_A, refuse(ReceiverNotFound), "only the two bound sessions send relays"),
            InputKind.ANSWER: Cell(_A, refuse(ReceiverNotFound), "only the two bound sessions send relays"),
            InputKind.CANDIDATE: Cell(
                _A, refuse(ReceiverNotFound), "only the two bound sessions send relays"
            ),
            InputKind.ATTACHED: Cell(_A, actions.ignore, "not part of the call"),
            InputKind.LEFT: Cell(_A, actions.ignore, "not part of the call"),
        },
        Role.CALLEE: {
            InputKind.ACCEPT: Cell(_A, refuse(InvalidState, _not_ringing), "accepted already"),
            InputKind.REJECT: Cell(
                _A, refuse(InvalidState, _not_ringing), "accepted already; end it instead"
            ),
            InputKind.END: Cell(_E, actions.hang_up, "hangup"),
            InputKind.OFFER: Cell(_A, actions.to_caller, "renegotiation"),
            InputKind.ANSWER: Cell(_A, actions.to_caller, "renegotiation"),
            InputKind.CANDIDATE: Cell(_A, actions.to_caller, "for as long as the call lives"),
            InputKind.ATTACHED: Cell(
                _A, actions.move_callee, "the callee's session moved to another gateway"
            ),
            InputKind.LEFT: Cell(_E, actions.party_left, "hangup, or connection_lost if the transport broke"),
        },
        Role.CALLEE_DEVICE: {
            InputKind.ACCEPT: Cell(_A, refuse(InvalidState, _other_device), "another device was first"),
            InputKind.REJECT: Cell(_A, refuse(InvalidState, _other_device), "another device was first"),
            InputKind.END: Cell(_E, actions.hang_up, "a user may end the call from any device"),
            InputKind.OFFER: Cell(_A, refuse(ReceiverNotFound), "only the two bound sessions send relays"),
            InputKind.ANSWER: Cell(_A, refuse(ReceiverNotFound), "only the two bound sessions send relays"),
            InputKind.CANDIDATE: Cell(
                _A, refuse(ReceiverNotFound), "only the two bound sessions send relays"
            ),
            InputKind.ATTACHED: Cell(_A, actions.ignore, "not part of the call"),
            InputKind.LEFT: Cell(_A, actions.ignore, "not part of the call"),
        },
        Role.SERVER: {InputKind.TIMEOUT: Cell(_A, actions.ignore, "the callee answered in time")},
    },
    _E: _ended_row(),
}


def step(call: Call, event: CallInput, now: int) -> Outcome:
    """Return the outcome of ``event`` for ``call`` at ``now`` (milliseconds since the epoch).

    Raises :class:`CallNotFound` if the author has no part in the call, or the refusal that the table names.
    """
    cell = TABLE[call.state][role_of(call, event)][event.kind]
    return cell.rule(call, event, now)


def replay(call: Call, event: CallInput) -> Outcome:
    """Return the outcome of the last transition once more, for a repeated request whose first reply was lost.

    ``call`` is the record after ``event``. The sends are those of the first time; the record stays unchanged.
    """
    if event.cause != call.caused_by:  # it changed an address, not the state
        return Outcome(call, step(call, event, 0).sends)
    previous = State.RINGING if call.state is State.ACCEPTED or call.accepted_at is None else State.ACCEPTED
    if call.state is State.RINGING or previous is State.ACCEPTED:
        before = call.model_copy(update={"state": previous})
    else:
        before = call.model_copy(update={"state": previous, "callee_at": None})
    outcome = step(before, event, call.ended_at or call.accepted_at or call.created_at)
    return Outcome(call, outcome.sends, outcome.relay_to)


def role_of(call: Call, event: CallInput) -> Role:
    """Return the role of the author of ``event``. Raises :class:`CallNotFound` for a user without a part."""
    if event.user is None or event.at is None:
        return Role.SERVER
    if event.user == call.caller:
        return Role.CALLER if event.at.session == call.caller_at.session else Role.CALLER_DEVICE
    if event.user != call.callee:
        raise CallNotFound(call_id=call.call)
    if call.callee_at is None or event.at.session == call.callee_at.session:
        return Role.CALLEE
    return Role.CALLEE_DEVICE
