"""Telling: everybody who has to know what has become of a call, in the order that keeps them right."""

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
    """Tells the callcore in charge of a call's relays what the call has become.

    ``born``: it came about just now. ``rings``: the device that has just begun to ring.
    """

    def __call__(
        self, call: Call, revision: int, *, born: bool = False, rings: Address | None = None
    ) -> None: ...


class Notifier:
    """Turns an outcome that is stored into messages."""

    def __init__(self, announce: Announce, told: RedeliveryBuffer, event_log: EventLog) -> None:
        self._announce = announce
        self._told = told
        self._event_log = event_log

    def tell(self, outcome: Outcome, revision: int, *, what: str | None, expires_at: int) -> None:
        """Announce, deliver, record. ``what``: the event's name, ``None`` for a mere change of address.

        ``expires_at``: when the asker stops waiting (ms, 0 for never). Raises :class:`Late` after that, and tells
        nobody: the asker asks elsewhere, and everybody is told from there. So what is answered has been told.
        """
        if time_budget.is_over(expires_at):
            log.warning("done too late to tell", call=outcome.call.call)
            raise Late
        call = outcome.call
        # Whoever is told may send a relay at once, so the relaying instance learns first what the call has become.
        # The exception is a device that begins to ring: it gets the call before the offers that came earlier.
        rings = next(
            (send.to for send in outcome.sends if what is None and send.event is Event.INCOMING), None
        )
        if rings is None:
            self._announce(call, revision, born=what == "initiated")
        for send in outcome.sends:
            self._told.deliver(send.to.gateway, send.to.session, send.event, send.payload.dump())
        if rings is not None:
            self._announce(call, revision, rings=rings)
        if what is not None:
            self._event_log.record(
                subjects.event_call(call.call, what), f"{call.call}.{what}", _summary(call)
            )
            why = {"reason": call.reason} if call.reason is not None else {}
            log.info("call " + what, call=call.call, caller=call.caller, callee=call.callee, **why)


def _summary(call: Call) -> CallEvent:
    """A call's life for EVENTS: who, what kind, when (ms), and how it ended."""
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
