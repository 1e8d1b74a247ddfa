"""Set and take deadlines: timers that nats-server keeps, so that they fire after an instance has died.

A deadline is a scheduled message; at its time it goes to one live instance of the service that keeps its kind, through
a shared consumer, and to another if that one does not acknowledge. Late ones, e.g. after everything was down, fire at
start. Setting a deadline that is set moves it; setting it again and again, always a little ahead, is a lease.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from shared import subjects
from shared.errors import SignallingError, Unavailable
from shared.nats.connection import Bus
from shared.nats.pending_requests import PendingRequest, head_of
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

_ACK_WAIT_SECONDS = 5
_FETCH = 64
_FETCH_SECONDS = 5.0
_TTL_SECONDS = 600
"""Seconds that a fired deadline waits for an instance to take it."""
_PAUSE_SECONDS = 1.0
_SET_SECONDS = 2.0
_CANCELLED = head_of({"Nats-TTL": "1s"})

Fire = Callable[[str, bytes], Awaitable[None]]
"""Handles a due deadline: (id, payload). Raises a :class:`SignallingError` to have it delivered again."""


def set_deadline(bus: Bus, kind: str, id_: str, at_ms: int, payload: bytes = b"") -> PendingRequest[None]:
    """Set or move a deadline of ``kind`` to ``at_ms`` (milliseconds since the epoch).

    Awaiting it raises :class:`Unavailable` if it is not known to be set.
    """
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
    head = head_of(
        {
            "Nats-Schedule": f"@at {at}",
            "Nats-Schedule-Target": subjects.deadline_due(kind, id_),
            "Nats-Schedule-TTL": f"{_TTL_SECONDS}s",
        }
    )

    def is_set(data: bytes, _head: bytes) -> None:
        if b'"error"' in data and (error := json.loads(data).get("error")):
            bus.full.note(subjects.STREAM_DEADLINES, error)
            raise Unavailable(f"deadline not set: {error.get('description')}")
        if bus.full:
            bus.full.stored(subjects.STREAM_DEADLINES)

    return bus.ask(subjects.deadline_set(kind, id_), payload, is_set, timeout=_SET_SECONDS, head=head)


def cancel_deadline(bus: Bus, kind: str, id_: str) -> None:
    """Cancel a deadline, without waiting for NATS. It may fire all the same, so that must do no harm."""
    with suppress(Unavailable):
        # Its replacement is no deadline, and expires after a second, the shortest TTL of NATS.
        bus.publish(subjects.deadline_set(kind, id_), head=_CANCELLED)


class Timers:
    """Calls ``fire`` for due deadlines of one ``kind``; NATS hands each to one instance that does so."""

    def __init__(self, bus: Bus, kind: str, fire: Fire) -> None:
        self._bus = bus
        self._fire = fire
        self._ticks = PeriodicTask(
            f"deadlines {kind}", _PAUSE_SECONDS, self._consume_until_failure, at_once=True
        )
        self.kind = kind
        self.done = 0
        """Deadlines that succeeded, and those that failed and are delivered again."""
        self.failed = 0

    def start(self) -> None:
        """Start to take due deadlines."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop; NATS hands a deadline that is not acknowledged to another instance."""
        await self._ticks.stop()

    async def _consume_until_failure(self) -> None:
        try:
            await self._consume()
        except (nats.errors.Error, Unavailable, OSError) as error:
            log.warning("deadlines paused", error=_reason(error))

    async def _consume(self) -> None:
        config = ConsumerConfig(
            durable_name=self.kind,
            filter_subject=subjects.deadline_due_all(self.kind),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_SECONDS,
        )
        js = self._bus.client.jetstream()
        consumer = await js.pull_subscribe(
            subjects.deadline_due_all(self.kind),
            durable=self.kind,
            stream=subjects.STREAM_DEADLINES,
            config=config,
        )
        try:
            while True:
                try:
                    due = await consumer.fetch(_FETCH, timeout=_FETCH_SECONDS)
                except TimeoutError:
                    continue  # nothing was due; nats-py raises its own, a subclass, or asyncio's
                await asyncio.gather(*(self._take(msg) for msg in due))
        finally:
            if self._bus.connected:
                await consumer.unsubscribe()

    async def _take(self, msg: Msg) -> None:
        kind, id_ = subjects.parse_deadline(msg.subject)
        try:
            await self._fire(id_, msg.data)
            await msg.ack()
            self.done += 1
        except (SignallingError, nats.errors.Error) as error:
            self.failed += 1
            log.warning("deadline not done yet", kind=kind, id=id_, error=str(error) or type(error).__name__)
        except Exception:
            self.failed += 1
            log.exception("deadline failed", kind=kind, id=id_)


def _reason(error: Exception) -> str:
    """Return the reason in short; nats-py writes "None" three times where the server gave none."""
    if isinstance(error, nats.js.errors.APIError):
        return error.description or type(error).__name__
    return str(error) or type(error).__name__
