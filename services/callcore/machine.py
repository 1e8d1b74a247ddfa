"""The call machine: one table that says, for every state, role and happening, what becomes of the call.

A missing cell is an error, so the table is complete by construction; ``docs/call-states.md`` is generated from it.
Pure: no I/O, no clock. ``step`` decides, somebody else stores and sends.
"""

from collections.abc import Callable
from typing import NamedTuple

from services.callcore.model import SERVER, Address, Call, Happening, Kind, Outcome, Reason, Role, Send, State
from shared.contracts.client import Accepted, Ended, Event, Incoming, Initiated, Rejected
from shared.errors import CallNotFound, InvalidState, ReceiverNotFound, SignallingError

Rule = Callable[[Call, Happening, int], Outcome]


class Cell(NamedTuple):
    """One cell of the table: the state the call can be in afterwards, the rule, and the reason for it in words."""

    next: State
    rule: Rule
    note: str


# --- rules: transitions -------------------------------------------------------------------------------------------


def place(call: Call) -> Outcome:
    """The birth of a call: ring every device of the callee, tell the caller."""
    told = Initiated(call_id=call.call, to=call.callee, expires_at=call.expires_at)
    return Outcome(call, (Send(call.caller_at, Event.INITIATED, told), *(_incoming(call, at) for at in call.ringing)))


def _accept(call: Call, event: Happening, now: int) -> Outcome:
    at = _at(event)
    accepted = call.model_copy(
        update={
            "state": State.ACCEPTED,
            "callee_at": at,
            "accepted_at": now,
            "caused_by": event.cause,
        }
    )
    told = Accepted(call_id=call.call, by=call.callee)
    return Outcome(
        accepted,
        (
            Send(call.caller_at, Event.ACCEPTED, told),
            Send(at, Event.ACCEPTED, told),
            *_tell(_others(call, at), _ended(call, call.callee, Reason.ANSWERED_ELSEWHERE)),
        ),
        relay_to=(call.caller_at,),
    )


def _reject(call: Call, event: Happening, now: int) -> Outcome:
    at = _at(event)
    told = Rejected(call_id=call.call, by=call.callee, reason=event.reason)
    return Outcome(
        _end_record(call, event, now, call.callee, event.reason or Reason.REJECTED),
        (
            Send(call.caller_at, Event.REJECTED, told),
            Send(at, Event.REJECTED, told),
            *_tell(_others(call, at), _ended(call, call.callee, Reason.REJECTED_ELSEWHERE)),
        ),
    )


def _cancel(call: Call, event: Happening, now: int) -> Outcome:
    reason = event.reason or Reason.CANCELLED
    return _end(call, event, now, reason, (call.caller_at, *call.ringing))


def _refuse_by_end(call: Call, event: Happening, now: int) -> Outcome:
    at, reason = _at(event), event.reason or Reason.REJECTED
    told = _ended(call, call.callee, reason)
    return Outcome(
        _end_record(call, event, now, call.callee, reason),
        (
            *_tell((call.caller_at, at), told),
            *_tell(_others(call, at), _ended(call, call.callee, Reason.REJECTED_ELSEWHERE)),
        ),
    )


def _hang_up(call: Call, event: Happening, now: int) -> Outcome:
    return _end(call, event, now, event.reason or Reason.HANGUP, _bound(call))


def _time_out(call: Call, event: Happening, now: int) -> Outcome:
    told = _ended(call, SERVER, Reason.TIMEOUT)
    return Outcome(
        _end_record(call, event, now, SERVER, Reason.TIMEOUT), tuple(_tell((call.caller_at, *call.ringing), told))
    )


def _caller_left(call: Call, event: Happening, now: int) -> Outcome:
    reason = Reason.CANCELLED if event.reason == Reason.HANGUP else event.reason or Reason.CONNECTION_LOST
    return _end(call, event, now, reason, call.ringing, leaver=True)


def _ringing_device_left(call: Call, event: Happening, now: int) -> Outcome:
    left = _others(call, _at(event))
    if left == call.ringing:
        return Outcome(call)
    if left:
        return Outcome(call.model_copy(update={"ringing": left, "caused_by": event.cause}))
    return _end(call, event, now, Reason.CONNECTION_LOST, (call.caller_at,), leaver=True)


def _party_left(call: Call, event: Happening, now: int) -> Outcome:
    return _end(call, event, now, event.reason or Reason.CONNECTION_LOST, _others_of(_bound(call), _at(event)), leaver=True)


def _ring_device(call: Call, event: Happening, _now: int) -> Outcome:
    at = _at(event)
    ringing = (*_others(call, at), at)
    rung = call.model_copy(update={"ringing": ringing, "caused_by": event.cause})
    return Outcome(rung, (_incoming(rung, at),))


def _move_caller(call: Call, event: Happening, _now: int) -> Outcome:
    if call.caller_at == event.at:
        return Outcome(call)
    return Outcome(call.model_copy(update={"caller_at": event.at, "caused_by": event.cause}))


def _move_callee(call: Call, event: Happening, _now: int) -> Outcome:
    if call.callee_at == event.at:
        return Outcome(call)
    return Outcome(call.model_copy(update={"callee_at": event.at, "caused_by": event.cause}))


# --- rules: relays and refusals -----------------------------------------------------------------------------------


def _to_ringing(call: Call, _event: Happening, _now: int) -> Outcome:
    return Outcome(call, relay_to=call.ringing)


def _to_caller(call: Call, _event: Happening, _now: int) -> Outcome:
    return Outcome(call, relay_to=(call.caller_at,))


def _to_callee(call: Call, _event: Happening, _now: int) -> Outcome:
    return Outcome(call, relay_to=(call.callee_at,) if call.callee_at else ())


def _ignore(call: Call, _event: Happening, _now: int) -> Outcome:
    return Outcome(call)


def _refuse(error: type[SignallingError], message: str | None = None) -> Rule:
    def rule(call: Call, _event: Happening, _now: int) -> Outcome:
        raise error(message, call_id=call.call)

    return rule


# --- the table ----------------------------------------------------------------------------------------------------

_R, _A, _E = State.RINGING, State.ACCEPTED, State.ENDED

_not_caller = "Only the callee can do that; the caller ends a call with call:end"
_not_ringing = "The call is not ringing any more: it was accepted"
_elsewhere = "The call was accepted on another device"

TABLE: dict[State, dict[Role, dict[Kind, Cell]]] = {
    _R: {
        Role.CALLER: {
            Kind.ACCEPT: Cell(_R, _refuse(InvalidState, _not_caller), "the caller cannot accept its own call"),
            Kind.REJECT: Cell(_R, _refuse(InvalidState, _not_caller), "the caller cancels with end"),
            Kind.END: Cell(_E, _cancel, "cancelled"),
            Kind.OFFER: Cell(_R, _to_ringing, "early media: to every ringing device"),
            Kind.ANSWER: Cell(_R, _refuse(InvalidState, _not_caller), "an answer accepts, and the caller cannot"),
            Kind.CANDIDATE: Cell(_R, _to_ringing, "early media: to every ringing device"),
            Kind.ATTACHED: Cell(_R, _move_caller, "the caller's session moved to another gateway"),
            Kind.LEFT: Cell(_E, _caller_left, "cancelled, or connection_lost if the transport broke"),
        },
        Role.CALLER_DEVICE: {
            Kind.ACCEPT: Cell(_R, _refuse(InvalidState, _not_caller), "the caller cannot accept its own call"),
            Kind.REJECT: Cell(_R, _refuse(InvalidState, _not_caller), "the caller cancels with end"),
            Kind.END: Cell(_E, _cancel, "a user may end the call from any device"),
            Kind.OFFER: Cell(_R, _refuse(ReceiverNotFound), "only the calling session talks"),
            Kind.ANSWER: Cell(_R, _refuse(ReceiverNotFound), "only the calling session talks"),
            Kind.CANDIDATE: Cell(_R, _refuse(ReceiverNotFound), "only the calling session talks"),
            Kind.ATTACHED: Cell(_R, _ignore, "not part of the call"),
            Kind.LEFT: Cell(_R, _ignore, "not part of the call"),
        },
        Role.CALLEE: {
            Kind.ACCEPT: Cell(_A, _accept, "the first to accept wins; the other devices are told"),
            Kind.REJECT: Cell(_E, _reject, "rejected for all devices"),
            Kind.END: Cell(_E, _refuse_by_end, "ending a call that rings here is rejecting it"),
            Kind.OFFER: Cell(_R, _to_caller, "early media the other way"),
            Kind.ANSWER: Cell(_A, _accept, "an answer is an acceptance"),
            Kind.CANDIDATE: Cell(_R, _to_caller, "early media the other way"),
            Kind.ATTACHED: Cell(_R, _ring_device, "a device that joins, or comes back, rings at once"),
            Kind.LEFT: Cell(_E, _ringing_device_left, "other devices ring on; connection_lost when it was the last"),
        },
        Role.SERVER: {Kind.TIMEOUT: Cell(_E, _time_out, "nobody answered in time")},
    },
    _A: {
        Role.CALLER: {
            Kind.ACCEPT: Cell(_A, _refuse(InvalidState, _not_ringing), "accepted already"),
            Kind.REJECT: Cell(_A, _refuse(InvalidState, _not_ringing), "accepted already; end it instead"),
            Kind.END: Cell(_E, _hang_up, "hangup"),
            Kind.OFFER: Cell(_A, _to_callee, "renegotiation"),
            Kind.ANSWER: Cell(_A, _to_callee, "renegotiation"),
            Kind.CANDIDATE: Cell(_A, _to_callee, "as long as the call lives"),
            Kind.ATTACHED: Cell(_A, _move_caller, "the caller's session moved to another gateway"),
            Kind.LEFT: Cell(_E, _party_left, "hangup, or connection_lost if the transport broke"),
        },
        Role.CALLER_DEVICE: {
            Kind.ACCEPT: Cell(_A, _refuse(InvalidState, _not_ringing), "accepted already"),
            Kind.REJECT: Cell(_A, _refuse(InvalidState, _not_ringing), "accepted already; end it instead"),
            Kind.END: Cell(_E, _hang_up, "a user may end the call from any device"),
            Kind.OFFER: Cell(_A, _refuse(ReceiverNotFound), "only the two bound sessions talk"),
            Kind.ANSWER: Cell(_A, _refuse(ReceiverNotFound), "only the two bound sessions talk"),
            Kind.CANDIDATE: Cell(_A, _refuse(ReceiverNotFound), "only the two bound sessions talk"),
            Kind.ATTACHED: Cell(_A, _ignore, "not part of the call"),
            Kind.LEFT: Cell(_A, _ignore, "not part of the call"),
        },
        Role.CALLEE: {
            Kind.ACCEPT: Cell(_A, _refuse(InvalidState, _not_ringing), "accepted already"),
            Kind.REJECT: Cell(_A, _refuse(InvalidState, _not_ringing), "accepted already; end it instead"),
            Kind.END: Cell(_E, _hang_up, "hangup"),
            Kind.OFFER: Cell(_A, _to_caller, "renegotiation"),
            Kind.ANSWER: Cell(_A, _to_caller, "renegotiation"),
            Kind.CANDIDATE: Cell(_A, _to_caller, "as long as the call lives"),
            Kind.ATTACHED: Cell(_A, _move_callee, "the callee's session moved to another gateway"),
            Kind.LEFT: Cell(_E, _party_left, "hangup, or connection_lost if the transport broke"),
        },
        Role.CALLEE_DEVICE: {
            Kind.ACCEPT: Cell(_A, _refuse(InvalidState, _elsewhere), "another device was first"),
            Kind.REJECT: Cell(_A, _refuse(InvalidState, _elsewhere), "another device was first"),
            Kind.END: Cell(_E, _hang_up, "a user may end the call from any device"),
            Kind.OFFER: Cell(_A, _refuse(ReceiverNotFound), "only the two bound sessions talk"),
            Kind.ANSWER: Cell(_A, _refuse(ReceiverNotFound), "only the two bound sessions talk"),
            Kind.CANDIDATE: Cell(_A, _refuse(ReceiverNotFound), "only the two bound sessions talk"),
            Kind.ATTACHED: Cell(_A, _ignore, "not part of the call"),
            Kind.LEFT: Cell(_A, _ignore, "not part of the call"),
        },
        Role.SERVER: {Kind.TIMEOUT: Cell(_A, _ignore, "it was answered in time")},
    },
    _E: {
        role: {
            kind: Cell(_E, _refuse(ReceiverNotFound), "the call is over")
            if kind in (Kind.OFFER, Kind.ANSWER, Kind.CANDIDATE)
            else Cell(_E, _ignore, "the call is over")
            if kind in (Kind.ATTACHED, Kind.LEFT)
            else Cell(_E, _refuse(CallNotFound), "the call is over")
            for kind in Kind
            if kind is not Kind.TIMEOUT
        }
        for role in Role
        if role is not Role.SERVER
    }
    | {Role.SERVER: {Kind.TIMEOUT: Cell(_E, _ignore, "the call is over")}},
}


def step(call: Call, event: Happening, now: int) -> Outcome:
    """What becomes of ``call`` when ``event`` happens at ``now`` (milliseconds since the epoch).

    Raises :class:`CallNotFound` if the user is a stranger to the call, or the refusal that the table names.
    """
    cell = TABLE[call.state][role_of(call, event)][event.kind]
    return cell.rule(call, event, now)


def again(call: Call, event: Happening) -> Outcome:
    """The outcome of the last transition once more, for a request tried again whose first answer got lost.

    ``call`` is what ``event`` made of it. The sends are those of the first time; the record stays as it is.
    """
    was = State.RINGING if call.state is State.ACCEPTED or call.accepted_at is None else State.ACCEPTED
    if call.state is State.RINGING or was is State.ACCEPTED:
        before = call.model_copy(update={"state": was})
    else:
        before = call.model_copy(update={"state": was, "callee_at": None})
    outcome = step(before, event, call.ended_at or call.accepted_at or call.created_at)
    return Outcome(call, outcome.sends, outcome.relay_to)


def role_of(call: Call, event: Happening) -> Role:
    """Who the author of ``event`` is to ``call``. Raises :class:`CallNotFound` for a stranger."""
    if event.user is None or event.at is None:
        return Role.SERVER
    if event.user == call.caller:
        return Role.CALLER if event.at.session == call.caller_at.session else Role.CALLER_DEVICE
    if event.user != call.callee:
        raise CallNotFound(call_id=call.call)
    if call.callee_at is None or event.at.session == call.callee_at.session:
        return Role.CALLEE
    return Role.CALLEE_DEVICE


# --- building blocks ----------------------------------------------------------------------------------------------


def _at(event: Happening) -> Address:
    assert event.at is not None, "the table gives this rule to clients only"
    return event.at


def _bound(call: Call) -> tuple[Address, ...]:
    return (call.caller_at, call.callee_at) if call.callee_at else (call.caller_at,)


def _others_of(addresses: tuple[Address, ...], at: Address) -> tuple[Address, ...]:
    return tuple(other for other in addresses if other.session != at.session)


def _others(call: Call, at: Address) -> tuple[Address, ...]:
    return _others_of(call.ringing, at)


def _incoming(call: Call, at: Address) -> Send:
    told = Incoming(
        from_=call.caller,
        call_type=call.call_type,
        call_id=call.call,
        metadata=call.metadata,
        expires_at=call.expires_at,
    )
    return Send(at, Event.INCOMING, told)


def _ended(call: Call, by: str, reason: str) -> Ended:
    return Ended(call_id=call.call, by=by, reason=reason)


def _tell(addresses: tuple[Address, ...], told: Ended) -> list[Send]:
    return [Send(at, Event.ENDED, told) for at in addresses]


def _end_record(call: Call, event: Happening, now: int, by: str, reason: str) -> Call:
    return call.model_copy(
        update={
            "state": State.ENDED,
            "ended_at": now,
            "ended_by": by,
            "reason": str(reason),
            "caused_by": event.cause,
        }
    )


def _end(
    call: Call, event: Happening, now: int, reason: str, told: tuple[Address, ...], *, leaver: bool = False
) -> Outcome:
    """End the call and tell ``told``, and the device that asked for it unless it has left."""
    by = event.user or SERVER
    if not leaver and event.at is not None and event.at not in told:
        told = (*_others_of(told, event.at), event.at)
    return Outcome(_end_record(call, event, now, by, reason), tuple(_tell(told, _ended(call, by, str(reason)))))
