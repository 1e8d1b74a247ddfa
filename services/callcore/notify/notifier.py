"""Notify the sessions of a call, its owner and EVENTS of a stored outcome, in the order that keeps relays correct."""

from typing import Protocol

from services.callcore.notify.redelivery import RedeliveryBuffer
from services.callcore.state.model import Address, Call, Outcome, Reason
from shared import subjects
from shared.contracts.client import Event
from shared.contracts.events import CallEvent
from shared.errors import Late
from shared.messaging import time_budget
from shared.messaging.event_log import EventLog
from shared.observability import logs

log = logs.get(__name__)


class Announce(Protocol):
    """Announces a state of a call to the callcore that its relays go through.

    ``born``: the call was created just now. ``rings``: the device that has just begun to ring.
    """

    def __call__(
        self, call: Call, revision: int, *, born: bool = False, rings: Address | None = None
    ) -> None:
        """Announce the state that is stored as ``revision``."""


class Notifier:
    """Sends the messages of an outcome that is stored."""

    def __init__(self, announce: Announce, redelivery: RedeliveryBuffer, event_log: EventLog) -> None:
        self._announce = announce
        self._redelivery = redelivery
        self._event_log = event_log

    def notify(self, outcome: Outcome, revision: int, *, event_name: str | None, expires_at: int) -> None:
        """Announce, deliver, record. ``event_name``: of the record in EVENTS, ``None`` for a change of address.

        ``expires_at``: when the requester stops waiting (ms, 0 for never). Raises :class:`Late` after that, and sends
        nothing: another instance answers the repeated request and notifies. So a reply implies that all was sent.
        """
        if time_budget.is_over(expires_at):
            log.warning("applied too late to notify", call=outcome.call.call)
            raise Late
        call = outcome.call
        # A notified client may send a relay at once, so the relaying instance learns the new state first. The exception
        # is a device that begins to ring: it is sent the call before the offers that came earlier.
        rings = next(
            (send.to for send in outcome.sends if event_name is None and send.event is Event.INCOMING), None
        )
        if rings is None:
            self._announce(call, revision, born=event_name == "initiated")
        for send in outcome.sends:
            self._redelivery.deliver(send.to.gateway, send.to.session, send.event, send.payload.dump())
        if rings is not None:
            self._announce(call, revision, rings=rings)
        if event_name is not None:
            self._event_log.record(
                subjects.event_call(call.call, event_name), f"{call.call}.{event_name}", _summary(call)
            )
            why = {"reason": call.reason} if call.reason is not None else {}
            log.info("call " + event_name, call=call.call, caller=call.caller, callee=call.callee, **why)


def _summary(call: Call) -> CallEvent:
    """Return the record of a call for EVENTS: users, type, times (ms), and how it ended."""
    return CallEvent(
        call_id=call.call,
        caller=call.caller,
        callee=call.callee,
        call_type=call.call_type,
        created_at=call.created_at,
        accepted_at=call.accepted_at,
        ended_at=call.ended_at,
        by=call.ended_by,
        reason=call.reason if call.reason != Reason.VOID else None,
    )
