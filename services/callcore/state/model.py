"""The inputs of the call machine, and its outcomes. No I/O, no clock. The record is in the contracts."""

from dataclasses import dataclass
from enum import StrEnum

from shared.contracts.call_records import (
    NEVER_UNANSWERED,
    Address,
    Call,
    InputKind,
    State,
    Unanswered,
)
from shared.contracts.client import Event
from shared.contracts.wire import Wire

__all__ = (
    "NEVER_UNANSWERED",
    "RELAY_KINDS",
    "SERVER",
    "Address",
    "Call",
    "CallInput",
    "InputKind",
    "Outcome",
    "Reason",
    "Role",
    "Send",
    "State",
    "Unanswered",
)


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


class Role(StrEnum):
    """The author of an input, as the call sees them."""

    CALLER = "caller"
    """The session that called."""
    CALLER_DEVICE = "caller's other device"
    CALLEE = "callee"
    """The session that accepted; while ringing, every session of the callee."""
    CALLEE_DEVICE = "callee's other device"
    SERVER = "server"


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
