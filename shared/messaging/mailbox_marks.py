"""Detect that the stream ``DELIVER`` stored nothing for a while, also if no client resumed meanwhile.

The stream acknowledges nothing, so a sender does not learn that it is full, or without a leader. Each callcore puts a
numbered mark into it every second. Where a number is missing, messages sent around it may be missing, too.
"""

import asyncio
import json
import time
from base64 import b64decode
from collections import OrderedDict
from typing import Any

from shared import subjects
from shared.clock import now_ms
from shared.errors import Unavailable
from shared.ids import new_id
from shared.nats import streams
from shared.nats.connection import Bus
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

MARK_SECONDS = 1.0
MARKS_PER_SUBJECT = 512
"""Less than a subject keeps (:data:`shared.nats.streams.MAILBOX_MAX`): no mark goes before its time."""
RUNS_MAX = 4_096
READ_SECONDS = 2.0
MARKS_MAX = 65_536
"""Marks read at a time."""
_BATCH = 256
_OVERDUE_MS = int(1750 * MARK_SECONDS)
_SOON_MS = int(1250 * MARK_SECONDS)
"""A mark that is stored so soon after the stream was made is the first one that could be."""
_NOT_FOUND = 10037


class Marker:
    """Puts marks into the stream. A run of numbers ends where the connection to NATS does."""

    def __init__(self, bus: Bus, *, seconds: float = MARK_SECONDS) -> None:
        self._bus = bus
        self._ticks = PeriodicTask("mailbox marks", seconds, self.mark, at_once=True)
        self._begin()

    def start(self) -> None:
        """Put the first mark, and one a second from then on."""
        self._bus.on_reconnect.append(self._reconnected)
        self._ticks.start()

    async def stop(self) -> None:
        """Put no more marks."""
        await self._ticks.stop()

    def _begin(self) -> None:
        self._run, self._number = new_id(), 0

    async def _reconnected(self) -> None:
        self._begin()

    def mark(self) -> None:
        """Put a mark; while NATS is away, begin a new run instead."""
        mark = {"run": self._run, "number": self._number, "at": now_ms()}
        try:
            self._bus.publish(
                subjects.mark(self._run, self._number // MARKS_PER_SUBJECT), json.dumps(mark).encode()
            )
        except Unavailable:
            self._begin()
        else:
            self._number += 1


class Marks:
    """Reads the marks, each once. ``complete_since``: no mark of later is missing (ms since the epoch)."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.complete_since = 0
        self._created = 0
        self._next = 1
        self._newest = 0
        self._numbers: OrderedDict[str, int] = OrderedDict()
        """Run → the number that comes next."""

    async def look(self, created: int) -> None:
        """Read what is new. ``created``: when the stream was made (ms). Raises :class:`Unavailable`.

        A mark that is overdue is waited for, as long as until the one after it: if the stream stored nothing until a
        moment ago, only the next mark shows it.
        """
        await self._read(created)
        if self._newest and now_ms() - self._newest > _OVERDUE_MS:
            await asyncio.sleep(MARK_SECONDS)
            await self._read(created)

    def take(self, mark: dict[str, Any]) -> None:
        """Take the next mark of the stream."""
        run, number, at = str(mark["run"]), int(mark["number"]), int(mark["at"])
        expected = self._numbers.get(run, 0)
        self._newest = max(self._newest, at)
        if number < expected:
            return
        if number > expected:
            # Messages from before the stream was made are known to be missing. A run whose first mark is older than the
            # stream keeps looks the same; that costs nothing, because no session may be resumed from so long ago.
            is_first = run not in self._numbers and 0 <= at - self._created <= _SOON_MS
            end = self._created if is_first else at
            if end > self.complete_since:
                log.warning("mailboxes have a gap", marks=number - expected, until=end)
                self.complete_since = end
        self._numbers[run] = number + 1
        self._numbers.move_to_end(run)
        if len(self._numbers) > RUNS_MAX:
            self._numbers.popitem(last=False)

    async def _read(self, created: int) -> None:
        if created != self._created:
            self._created, self._next = created, 1
            self._numbers.clear()
        left, until = MARKS_MAX, time.monotonic() + READ_SECONDS
        while left > 0:  # from any replica, which may be behind
            *batch, end = await self._bus.request_many(
                f"$JS.API.DIRECT.GET.{subjects.STREAM_DELIVER}",
                json.dumps({**self._query(), "batch": min(_BATCH, left)}).encode(),
                most=_BATCH + 1,
                timeout=READ_SECONDS,
            )
            if (end.headers or {}).get("Status") not in ("204", "404"):
                raise Unavailable(f"stream {subjects.STREAM_DELIVER} does not answer")
            if not batch:
                break
            for msg in batch:
                self._take(int((msg.headers or {})["Nats-Sequence"]), msg.data)
            left -= len(batch)
        while left > 0 and time.monotonic() < until:  # the end, from the leader
            verb = f"STREAM.MSG.GET.{subjects.STREAM_DELIVER}"
            answer = await streams.api(self._bus, verb, self._query(), timeout=READ_SECONDS)
            if error := answer.get("error"):
                if error.get("err_code") == _NOT_FOUND:
                    return
                raise Unavailable(f"stream {subjects.STREAM_DELIVER}: {error.get('description')}")
            self._take(answer["message"]["seq"], b64decode(answer["message"].get("data", "")))
            left -= 1

    def _query(self) -> dict[str, Any]:
        return {"next_by_subj": subjects.marks(), "seq": self._next}

    def _take(self, sequence: int, data: bytes) -> None:
        self._next = sequence + 1
        self.take(json.loads(data))
