"""Read the timeline of a call from the stream EVENTS, for ``signalling history``."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from shared import subjects
from shared.ids import could_be_minted
from shared.nats.connection import Bus
from shared.observability.escaping import printable
from shared.observability.traces import trace_of
from signalling.monitor.stream_reader import scan

_MOST = 10_000
_MARGIN_MS = 1_000
"""Time by which a record may be later than its event."""


class Moment(NamedTuple):
    """Describes one event. ``at``: milliseconds since the epoch. ``who``: a user, or ``server``, if known."""

    at: int
    what: str
    who: str | None
    reason: str | None = None


class History(NamedTuple):
    """Describes a recorded call. Times are milliseconds since the epoch; ``None`` for events that have not happened."""

    call: str
    caller: str
    callee: str
    call_type: str
    created_at: int
    accepted_at: int | None
    ended_at: int | None
    ended_by: str | None
    reason: str | None
    moments: tuple[Moment, ...]

    @property
    def rang_ms(self) -> int | None:
        """Return how long the call rang in milliseconds, ``None`` while it rings."""
        until = self.accepted_at or self.ended_at
        return until - self.created_at if until is not None else None

    @property
    def talked_ms(self) -> int | None:
        """Return how long the call was accepted in milliseconds; ``None`` while it is, or if it never was."""
        return self.ended_at - self.accepted_at if self.ended_at and self.accepted_at else None

    @property
    def trace(self) -> str | None:
        """Return the trace id in hexadecimal, ``None`` if the call has none."""
        id_ = trace_of(self.call)
        return f"{id_:032x}" if id_ is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON for programs: camelCase, with ``rangMs``, ``talkedMs`` and ``moments``."""
        return {
            "callId": self.call,
            "traceId": self.trace,
            "caller": self.caller,
            "callee": self.callee,
            "callType": self.call_type,
            "createdAt": self.created_at,
            "acceptedAt": self.accepted_at,
            "endedAt": self.ended_at,
            "endedBy": self.ended_by,
            "reason": self.reason,
            "rangMs": self.rang_ms,
            "talkedMs": self.talked_ms,
            "moments": [moment._asdict() for moment in self.moments],
        }


async def read(bus: Bus, call: str) -> History | None:
    """Return the history of a call; ``None`` if none is recorded, or ``call`` is not an id that the server mints.

    Raises :class:`shared.errors.Unavailable`.
    """
    if not could_be_minted(call):  # a wildcard would find all calls
        return None
    told: list[tuple[str, dict[str, Any]]] = []
    filter_ = subjects.event_call(call, "*")
    async for message in scan(bus, subjects.STREAM_EVENTS, filter_, most=_MOST):
        told.append((message.subject.rpartition(".")[2], json.loads(message.payload)))
    if not told:
        return None
    known = {key: value for _, body in told for key, value in body.items()}
    moments = [_moment(what, body) for what, body in told]
    for user in (known["caller"], known["callee"]):
        moments += [m async for m in _of_user(bus, user, known["createdAt"], known.get("endedAt"))]
    return History(
        call=call,
        caller=known["caller"],
        callee=known["callee"],
        call_type=known["callType"],
        created_at=known["createdAt"],
        accepted_at=known.get("acceptedAt"),
        ended_at=known.get("endedAt"),
        ended_by=known.get("by"),
        reason=known.get("reason"),
        moments=tuple(sorted(moments, key=lambda moment: moment.at)),
    )


def _moment(what: str, body: dict[str, Any]) -> Moment:
    match what:
        case "initiated":
            return Moment(body["createdAt"], what, body["caller"])
        case "accepted":
            return Moment(body["acceptedAt"], what, body["callee"])
    return Moment(body["endedAt"], what, body.get("by"), body.get("reason"))


async def _of_user(bus: Bus, user: str, since: int, until: int | None) -> AsyncIterator[Moment]:
    """Yield the events of a user's sessions during the call."""
    filter_ = subjects.event_user(user, "*")
    async for message in scan(bus, subjects.STREAM_EVENTS, filter_, since_ms=since, most=_MOST):
        body = json.loads(message.payload)
        if until is not None and message.at > until + _MARGIN_MS:
            return
        if since <= body["at"] and (until is None or body["at"] <= until):
            yield Moment(body["at"], message.subject.rpartition(".")[2], user)


def page(history: History) -> Iterator[str]:
    """Return the history as lines of text."""
    who = f"{printable(history.caller)} → {printable(history.callee)}"
    yield f"call {printable(history.call)}  {who}  {history.call_type}"
    for moment in history.moments:
        at = datetime.fromtimestamp(moment.at / 1000).astimezone()
        since = f"+{duration(moment.at - history.created_at)}"
        why = f" ({printable(moment.reason)})" if moment.reason else ""
        by = f"  {printable(moment.who)}" if moment.who else ""
        yield f"  {at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}  {since:>12}  {moment.what:<9}{by}{why}"
    yield _summary(history)
    if history.trace is not None:
        yield f"trace {history.trace}"


def _summary(history: History) -> str:
    parts = []
    if history.rang_ms is not None:
        parts.append(f"rang {duration(history.rang_ms)}")
    if history.talked_ms is not None:
        parts.append(f"talked {duration(history.talked_ms)}")
    if history.ended_at is None:
        parts.append("no end recorded")
    else:
        parts.append(
            f"ended: {printable(history.reason or 'no reason')} by {printable(history.ended_by or '?')}"
        )
    return ", ".join(parts)


def duration(ms: int) -> str:
    """Format a duration: ``850 ms``, ``12.3 s``, ``4 min 5 s``, ``1 h 2 min``."""
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
