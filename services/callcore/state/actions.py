"""The rules of the call machine: the outcome of each cell of the table. Pure: no I/O, no clock."""

from collections.abc import Callable

from services.callcore.state.model import SERVER, Address, Call, CallInput, Outcome, Reason, Send, State
from shared.contracts.client import Accepted, Ended, Event, Rejected, StoredIncoming, StoredInitiated
from shared.errors import SignallingError

RUNG_BY_MAX = 16
"""Request ids kept of devices that began to ring: more than are repeated at one time."""

Rule = Callable[[Call, CallInput, int], Outcome]
"""(call, input, now in ms) → outcome. Raises the refusal."""


# --- rules: transitions -------------------------------------------------------------------------------------------


def place(call: Call) -> Outcome:
    """Create a call: ring each device of the callee, and send the caller ``call:initiated``."""
    return Outcome(call, (_initiated(call, call.caller_at), *(_incoming(call, at) for at in call.ringing)))


def as_initiated(outcome: Outcome, event: CallInput) -> Outcome:
    """Send ``call:initiated`` first to the author, whose own ``call:initiate`` accepted the call (glare)."""
    call, at = outcome.call, _at(event)
    payload = StoredInitiated(
        call_id=call.call, to=call.peer_of(event.user or ""), expires_at=call.expires_at
    )
    return Outcome(call, (Send(at, Event.INITIATED, payload), *outcome.sends), outcome.relay_to)


def accept(call: Call, event: CallInput, now: int) -> Outcome:
    """Bind the call to the first device that accepts; the others stop ringing."""
    at = _at(event)
    accepted = call.model_copy(
        update={
            "state": State.ACCEPTED,
            "callee_at": at,
            "accepted_at": now,
            "caused_by": event.cause,
        }
    )
    payload = Accepted(call_id=call.call, by=call.callee)
    return Outcome(
        accepted,
        (
            Send(call.caller_at, Event.ACCEPTED, payload),
            Send(at, Event.ACCEPTED, payload),
            *_send_ended(_others(call, at), _ended(call, call.callee, Reason.ANSWERED_ELSEWHERE)),
        ),
        relay_to=(call.caller_at,),
    )


def reject(call: Call, event: CallInput, now: int) -> Outcome:
    """Reject the call for all devices of the callee."""
    at = _at(event)
    payload = Rejected(call_id=call.call, by=call.callee, reason=event.reason)
    return Outcome(
        _end_record(call, event, now, call.callee, event.reason or Reason.REJECTED),
        (
            Send(call.caller_at, Event.REJECTED, payload),
            Send(at, Event.REJECTED, payload),
            *_send_ended(_others(call, at), _ended(call, call.callee, Reason.REJECTED_ELSEWHERE)),
        ),
    )


def cancel(call: Call, event: CallInput, now: int) -> Outcome:
    """Cancel the call for the caller while it rings."""
    reason = event.reason or Reason.CANCELLED
    return _end(call, event, now, reason, (call.caller_at, *call.ringing))


def refuse_by_end(call: Call, event: CallInput, now: int) -> Outcome:
    """Reject a ringing call that the callee ends."""
    at, reason = _at(event), event.reason or Reason.REJECTED
    payload = _ended(call, call.callee, reason)
    return Outcome(
        _end_record(call, event, now, call.callee, reason),
        (
            *_send_ended((call.caller_at, at), payload),
            *_send_ended(_others(call, at), _ended(call, call.callee, Reason.REJECTED_ELSEWHERE)),
        ),
    )


def hang_up(call: Call, event: CallInput, now: int) -> Outcome:
    """End the accepted call for either side."""
    return _end(call, event, now, event.reason or Reason.HANGUP, _bound(call))


def time_out(call: Call, event: CallInput, now: int) -> Outcome:
    """End a call that was not answered in time."""
    payload = _ended(call, SERVER, Reason.TIMEOUT)
    return Outcome(
        _end_record(call, event, now, SERVER, Reason.TIMEOUT),
        tuple(_send_ended((call.caller_at, *call.ringing), payload)),
    )


def caller_left(call: Call, event: CallInput, now: int) -> Outcome:
    """End a ringing call whose calling session is gone."""
    reason = Reason.CANCELLED if event.reason == Reason.HANGUP else event.reason or Reason.CONNECTION_LOST
    return _end(call, event, now, reason, call.ringing, leaver=True)


def ringing_device_left(call: Call, event: CallInput, now: int) -> Outcome:
    """Stop the ring of a device that is gone; end the call if it was the last one."""
    left = _others(call, _at(event))
    if left == call.ringing:
        return Outcome(call)
    if left:
        return Outcome(call.model_copy(update={"ringing": left, "moved_by": event.cause}))
    return _end(call, event, now, Reason.CONNECTION_LOST, (call.caller_at,), leaver=True)


def party_left(call: Call, event: CallInput, now: int) -> Outcome:
    """End an accepted call of which a bound session is gone."""
    return _end(
        call,
        event,
        now,
        event.reason or Reason.CONNECTION_LOST,
        _others_of(_bound(call), _at(event)),
        leaver=True,
    )


def ring_device(call: Call, event: CallInput, _now: int) -> Outcome:
    """Ring one more device, or a moved one at its new address; send ``call:incoming`` unless it has received it."""
    at = _at(event)
    others = _others(call, at)
    begins = len(others) == len(call.ringing)
    informed = event.resumed and not begins and event.cause not in call.rung_by
    if informed and at in call.ringing:
        return Outcome(call)
    rung_by = (*call.rung_by, event.cause)[-RUNG_BY_MAX:] if begins else call.rung_by
    ringing = call.model_copy(
        update={"ringing": (*others, at), "moved_by": event.cause, "rung_by": rung_by},
    )
    return Outcome(ringing, () if informed else (_incoming(ringing, at),))


def move_ringing_caller(call: Call, event: CallInput, _now: int) -> Outcome:
    """Store the new address of the calling session; send ``call:initiated`` unless it resumed."""
    at = _at(event)
    if event.resumed and call.caller_at == at:
        return Outcome(call)
    moved = call.model_copy(update={"caller_at": at, "moved_by": event.cause})
    return Outcome(moved, () if event.resumed else (_initiated(moved, at),))


def move_caller(call: Call, event: CallInput, _now: int) -> Outcome:
    """Store the new address of the calling session."""
    if call.caller_at == event.at:
        return Outcome(call)
    return Outcome(call.model_copy(update={"caller_at": event.at, "moved_by": event.cause}))


def move_callee(call: Call, event: CallInput, _now: int) -> Outcome:
    """Store the new address of the accepting session."""
    if call.callee_at == event.at:
        return Outcome(call)
    return Outcome(call.model_copy(update={"callee_at": event.at, "moved_by": event.cause}))


# --- rules: relays and refusals -----------------------------------------------------------------------------------


def to_ringing(call: Call, _event: CallInput, _now: int) -> Outcome:
    """Relay to each ringing device."""
    return Outcome(call, relay_to=call.ringing)


def to_caller(call: Call, _event: CallInput, _now: int) -> Outcome:
    """Relay to the calling session."""
    return Outcome(call, relay_to=(call.caller_at,))


def to_callee(call: Call, _event: CallInput, _now: int) -> Outcome:
    """Relay to the accepting session."""
    return Outcome(call, relay_to=(call.callee_at,) if call.callee_at else ())


def ignore(call: Call, _event: CallInput, _now: int) -> Outcome:
    """Change nothing and send nothing."""
    return Outcome(call)


def refuse(error: type[SignallingError], message: str | None = None) -> Rule:
    """Return the rule that refuses with ``error``."""

    def rule(call: Call, _event: CallInput, _now: int) -> Outcome:
        raise error(message, call_id=call.call)

    return rule


# --- building blocks ----------------------------------------------------------------------------------------------


def _at(event: CallInput) -> Address:
    assert event.at is not None, "the table names this rule for clients only"
    return event.at


def _bound(call: Call) -> tuple[Address, ...]:
    return (call.caller_at, call.callee_at) if call.callee_at else (call.caller_at,)


def _others_of(addresses: tuple[Address, ...], at: Address) -> tuple[Address, ...]:
    return tuple(other for other in addresses if other.session != at.session)


def _others(call: Call, at: Address) -> tuple[Address, ...]:
    return _others_of(call.ringing, at)


def _incoming(call: Call, at: Address) -> Send:
    payload = StoredIncoming(
        from_=call.caller,
        call_type=call.call_type,
        call_id=call.call,
        metadata=call.metadata,
        expires_at=call.expires_at,
    )
    return Send(at, Event.INCOMING, payload)


def _initiated(call: Call, at: Address) -> Send:
    payload = StoredInitiated(call_id=call.call, to=call.callee, expires_at=call.expires_at)
    return Send(at, Event.INITIATED, payload)


def _ended(call: Call, by: str, reason: str) -> Ended:
    return Ended(call_id=call.call, by=by, reason=reason)


def _send_ended(addresses: tuple[Address, ...], payload: Ended) -> list[Send]:
    return [Send(at, Event.ENDED, payload) for at in addresses]


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
    call: Call,
    event: CallInput,
    now: int,
    reason: str,
    notified: tuple[Address, ...],
    *,
    leaver: bool = False,
) -> Outcome:
    """End the call; notify ``notified``, and the device that requested it unless it has left."""
    by = event.user or SERVER
    if not leaver and event.at is not None and event.at not in notified:
        notified = (*_others_of(notified, event.at), event.at)
    return Outcome(
        _end_record(call, event, now, by, reason), tuple(_send_ended(notified, _ended(call, by, str(reason))))
    )
