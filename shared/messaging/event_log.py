"""Record events in the stream EVENTS in the background, with acknowledgements and retries."""

import asyncio
import json
import math
import time

from shared import subjects
from shared.contracts.wire import Wire
from shared.errors import Unavailable
from shared.nats.backoff import Backoff
from shared.nats.connection import Bus
from shared.nats.pending_requests import NOBODY_THERE
from shared.observability import logs

log = logs.get(__name__)

WAITING_MAX = 4_096
"""Records that may wait for their acknowledgement; past it new ones are dropped, loudly."""
TRY_SECONDS = 60.0
"""Longer than NATS is away when it restarts or elects a leader, shorter than it knows what came twice."""
ACK_SECONDS = 2.0
_TICK_SECONDS = 0.1
_BACKOFF = Backoff(first=0.25, longest=4.0)


class EventLog:
    """Publishes to EVENTS, and retries for a minute until acknowledged; the stream stores each id once."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: set[_Record] = set()
        self._task: asyncio.Task[None] | None = None
        self.lost = 0
        """Records that were dropped, refused, or not acknowledged in time."""

    @property
    def waiting(self) -> int:
        """Return the number of records that are not acknowledged."""
        return len(self._waiting)

    def record(self, subject: str, id_: str, body: Wire) -> None:
        """Record ``body`` at ``subject``. ``id_``: the same for the same event, however often it is recorded."""
        if len(self._waiting) >= WAITING_MAX:
            self.lost += 1
            log.error("event dropped: too many are waiting", subject=subject)
            return
        record = _Record(self, subject, id_, body.dump())
        self._waiting.add(record)
        self._send(record)
        if self._task is None or self._task.done():
            # One for all of them: a task for each would cost as much as the record.
            self._task = asyncio.create_task(self._send_again(), name="events")

    def _send(self, record: "_Record") -> None:
        try:
            record.due = time.monotonic() + ACK_SECONDS
            record.token = self._bus.expect(record, record.subject, record.payload, record.head)
        except Unavailable:
            record.wait()

    def answered(self, record: "_Record", data: bytes) -> None:
        """Take the answer of NATS to a record."""
        if b'"error"' in data and (error := json.loads(data).get("error")):
            if self._bus.full.note(subjects.STREAM_EVENTS, error):
                record.wait()
                return
            self.lost += 1
            log.error("event refused", subject=record.subject, reason=error.get("description"))
        elif self._bus.full:
            self._bus.full.stored(subjects.STREAM_EVENTS)
        self._waiting.discard(record)

    async def _send_again(self) -> None:
        while self._waiting:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            for record in [record for record in self._waiting if record.due <= now]:
                self._bus.forget(record.token)
                if now < record.tried_until:
                    self._send(record)
                else:
                    self._waiting.discard(record)
                    self.lost += 1
                    log.error("event lost", subject=record.subject)

    async def drain(self, timeout: float) -> None:
        """Wait for the acknowledgements of what was recorded, ``timeout`` seconds at most."""
        until = time.monotonic() + timeout
        while self._waiting and time.monotonic() < until:
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _Record:
    """A record without acknowledgement. ``due``: when to send it again; ``tried_until``: when to give it up."""

    __slots__ = (
        "_event_log",
        "_failures",
        "due",
        "head",
        "payload",
        "subject",
        "token",
        "tried_until",
        "until",
    )

    def __init__(self, event_log: EventLog, subject: str, id_: str, payload: bytes) -> None:
        self._event_log = event_log
        self._failures = 0
        self.subject = subject
        self.head = b"NATS/1.0\r\nNats-Msg-Id: %b\r\n\r\n" % id_.encode()
        self.payload = payload
        self.token = ""
        self.due = 0.0
        self.until = math.inf  # forgotten when it is due
        self.tried_until = time.monotonic() + TRY_SECONDS

    def take(self, data: bytes, head: bytes) -> bool:
        """Take an answer. Returns False, because there is only one."""
        if head.startswith(NOBODY_THERE):
            self.wait()
        else:
            self._event_log.answered(self, data)
        return False

    def give_up(self) -> None:
        """Retry later: the connection is gone or hangs, so it is unknown if the record was stored."""
        self.wait()

    def wait(self) -> None:
        """Retry later, with exponential backoff."""
        self.due = time.monotonic() + _BACKOFF.seconds(self._failures)
        self._failures += 1
