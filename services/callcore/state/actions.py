"""The rules of the call machine: what each cell of the table does. Pure: no I/O, no clock."""

from collections.abc import Callable

from services.callcore.state.model import SERVER, Address, Call, CallInput, Outcome, Reason, Send, State
from shared.contracts.client import Accepted, Ended, Event, Rejected, StoredIncoming, StoredInitiated
from shared.errors import SignallingError

RUNG_BY_MAX = 16
"""Requests that are remembered of devices that began to ring: more than are tried again at one time."""

Rule = Callable[[Call, CallInput, int], Outcome]
"""(call, what happens, now in ms) → what becomes of it. Raises the refusal."""


# --- rules: transitions -------------------------------------------------------------------------------------------


def place(call: Call) -> Outcome:
    """The birth of a call: ring every device of the callee, tell the caller."""
    return Outcome(call, (_initiated(call, call.caller_at), *(_incoming(call, at) for at in call.ringing)))


def as_initiated(outcome: Outcome, event: CallInput) -> Outcome:
    """The same for somebody whose own ``call:initiate`` accepted the call: they hear of it as of a call they placed."""
    call, at = outcome.call, _at(event)
    told = StoredInitiated(call_id=call.call, to=call.peer_of(event.user or ""), expires_at=call.expires_at)
    return Outcome(call, (Send(at, Event.INITIATED, told), *outcome.sends), outcome.relay_to)


def accept(call: Call, event: CallInput, now: int) -> Outcome:
    """The first device to accept gets the call; the others stop ringing."""
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


def reject(call: Call, event: CallInput, now: int) -> Outcome:
    """Refused for all devices of the callee."""
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


def cancel(call: Call, event: CallInput, now: int) -> Outcome:
    """The caller thinks better of it."""
    reason = event.reason or Reason.CANCELLED
    return _end(call, event, now, reason, (call.caller_at, *call.ringing))


def refuse_by_end(call: Call, event: CallInput, now: int) -> Outcome:
    """The callee ends a call that rings: it is refused."""
    at, reason = _at(event), event.reason or Reason.REJECTED
    told = _ended(call, call.callee, reason)
    return Outcome(
        _end_record(call, event, now, call.callee, reason),
        (
            *_tell((call.caller_at, at), told),
            *_tell(_others(call, at), _ended(call, call.callee, Reason.REJECTED_ELSEWHERE)),
        ),
    )


def hang_up(call: Call, event: CallInput, now: int) -> Outcome:
    """Either side ends the accepted call."""
    return _end(call, event, now, event.reason or Reason.HANGUP, _bound(call))


def time_out(call: Call, event: CallInput, now: int) -> Outcome:
    """Nobody answered."""
    told = _ended(call, SERVER, Reason.TIMEOUT)
    return Outcome(
        _end_record(call, event, now, SERVER, Reason.TIMEOUT),
        tuple(_tell((call.caller_at, *call.ringing), told)),
    )


def caller_left(call: Call, event: CallInput, now: int) -> Outcome:
    """The calling session is gone while it rings."""
    reason = Reason.CANCELLED if event.reason == Reason.HANGUP else event.reason or Reason.CONNECTION_LOST
    return _end(call, event, now, reason, call.ringing, leaver=True)


def ringing_device_left(call: Call, event: CallInput, now: int) -> Outcome:
    """One device less; the last one takes the call with it."""
    left = _others(call, _at(event))
    if left == call.ringing:
        return Outcome(call)
    if left:
        return Outcome(call.model_copy(update={"ringing": left, "moved_by": event.cause}))
    return _end(call, event, now, Reason.CONNECTION_LOST, (call.caller_at,), leaver=True)


def party_left(call: Call, event: CallInput, now: int) -> Outcome:
    """A bound session is gone."""
    return _end(
        call,
        event,
        now,
        event.reason or Reason.CONNECTION_LOST,
        _others_of(_bound(call), _at(event)),
        leaver=True,
    )


def ring_device(call: Call, event: CallInput, _now: int) -> Outcome:
    """One more device rings, or one that moved rings where it is now; it is told unless it knows."""
    at = _at(event)
    others = _others(call, at)
    begins = len(others) == len(call.ringing)
    knows = event.resumed and not begins and event.cause not in call.rung_by
    if knows and at in call.ringing:
        return Outcome(call)
    rung_by = (*call.rung_by, event.cause)[-RUNG_BY_MAX:] if begins else call.rung_by
    rung = call.model_copy(
        update={"ringing": (*others, at), "moved_by": event.cause, "rung_by": rung_by},
    )
    return Outcome(rung, () if knows else (_incoming(rung, at),))


def move_ringing_caller(call: Call, event: CallInput, _now: int) -> Outcome:
    """The calling session is reached at another gateway now; it is told of its call unless it knows."""
    at = _at(event)
    if event.resumed and call.caller_at == at:
        return Outcome(call)
    moved = call.model_copy(update={"caller_at": at, "moved_by": event.cause})
    return Outcome(moved, () if event.resumed else (_initiated(moved, at),))


def move_caller(call: Call, event: CallInput, _now: int) -> Outcome:
    """The calling session is reached at another gateway now."""
    if call.caller_at == event.at:
        return Outcome(call)
    return Outcome(call.model_copy(update={"caller_at": event.at, "moved_by": event.cause}))


def move_callee(call: Call, event: CallInput, _now: int) -> Outcome:
    """The accepting session is reached at another gateway now."""
    if call.callee_at == event.at:
        return Outcome(call)
    return Outcome(call.model_copy(update={"callee_at": event.at, "moved_by": event.cause}))


# --- rules: relays and refusals -----------------------------------------------------------------------------------


def to_ringing(call: Call, _event: CallInput, _now: int) -> Outcome:
    """A relay for every ringing device."""
    return Outcome(call, relay_to=call.ringing)


def to_caller(call: Call, _event: CallInput, _now: int) -> Outcome:
    """A relay for the calling session."""
    return Outcome(call, relay_to=(call.caller_at,))


def to_callee(call: Call, _event: CallInput, _now: int) -> Outcome:
    """A relay for the accepting session."""
    return Outcome(call, relay_to=(call.callee_at,) if call.callee_at else ())


def ignore(call: Call, _event: CallInput, _now: int) -> Outcome:
    """Nothing comes of it."""
    return Outcome(call)


def refuse(error: type[SignallingError], message: str | None = None) -> Rule:
    """The rule that refuses with ``error``."""

    def rule(call: Call, _event: CallInput, _now: int) -> Outcome:
        raise error(message, call_id=call.call)

    return rule


# --- building blocks ----------------------------------------------------------------------------------------------


def _at(event: CallInput) -> Address:
    assert event.at is not None, "the table gives this rule to clients only"
    return event.at


def _bound(call: Call) -> tuple[Address, ...]:
    return (call.caller_at, call.callee_at) if call.callee_at else (call.caller_at,)


def _others_of(addresses: tuple[Address, ...], at: Address) -> tuple[Address, ...]:
    return tuple(other for other in addresses if other.session != at.session)


def _others(call: Call, at: Address) -> tuple[Address, ...]:
    return _others_of(call.ringing, at)


def _incoming(call: Call, at: Address) -> Send:
    told = StoredIncoming(
        from_=call.caller,
        call_type=call.call_type,
        call_id=call.call,
        metadata=call.metadata,
        expires_at=call.expires_at,
    )
    return Send(at, Event.INCOMING, told)


def _initiated(call: Call, at: Address) -> Send:
    told = StoredInitiated(call_id=call.call, to=call.callee, expires_at=call.expires_at)
    return Send(at, Event.INITIATED, told)


def _ended(call: Call, by: str, reason: str) -> Ended:
    return Ended(call_id=call.call, by=by, reason=reason)


def _tell(addresses: tuple[Address, ...], told: Ended) -> list[Send]:
    return [Send(at, Event.ENDED, told) for at in addresses]


def _end_record(call: Call, event: CallInput, now: int, by: str, reason: str) -> Call:
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
    call: Call, event: CallInput, now: int, reason: str, told: tuple[Address, ...], *, leaver: bool = False
) -> Outcome:
    """End the call and tell ``told``, and the device that asked for it unless it has left."""
    by = event.user or SERVER
    if not leaver and event.at is not None and event.at not in told:
        told = (*_others_of(told, event.at), event.at)
    return Outcome(
        _end_record(call, event, now, by, reason), tuple(_tell(told, _ended(call, by, str(reason))))
    )
