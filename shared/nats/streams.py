"""JetStream streams: made by their owner at start, with the raw API, whose newer fields nats-py does not know."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from shared import subjects
from shared.errors import Unavailable
from shared.nats.backoff import Backoff
from shared.nats.connection import Bus
from shared.nats.storage_full import for_want_of_room
from shared.observability import logs

log = logs.get(__name__)

SECOND_NS = 1_000_000_000
MAILBOX_MAX = 1_024
"""Messages of one event that a mailbox keeps; the oldest goes first."""
MB = 1024 * 1024
_NOT_FOUND, _IN_USE = 10059, 10058
_API_SECONDS = 5.0
EVENTS_PER_SUBJECT = 1000
"""Records of one kind that ``EVENTS`` keeps of a user or a call; oldest out first."""
MAKE_SECONDS = 30.0
"""Seconds for a cluster to elect the leader that makes streams."""
_BACKOFF = Backoff(first=0.5, longest=0.5, jitter=0.9)
SAY_SECONDS = 10.0
"""Least time between two log lines with the same reason."""


async def api(bus: Bus, verb: str, body: dict[str, Any], *, timeout: float = _API_SECONDS) -> dict[str, Any]:
    """Call the JetStream API. Returns its answer, which may be an error. Raises :class:`Unavailable`."""
    msg = await bus.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=timeout)
    answer: dict[str, Any] = json.loads(msg.data)
    return answer


class DoesNotFit(Unavailable):
    """NATS has less room than a setting reserves for a stream; the text begins with the name of the setting."""


async def ensure(bus: Bus, config: dict[str, Any], *, setting: str = "") -> None:
    """Update the stream to ``config``, or create it. Safe when several instances do it at once.

    ``setting``: by name and value, the setting that says how much room the stream reserves. Raises
    :class:`DoesNotFit` if NATS has less, or :class:`Unavailable` with the server's reason.
    """
    # The update goes first: a server checks a create for room before it sees that the stream exists.
    name = config["name"]
    for verb, next_if in (("UPDATE", _NOT_FOUND), ("CREATE", _IN_USE), ("UPDATE", None)):
        answer = await api(bus, f"STREAM.{verb}.{name}", config)
        if answer.get("error", {}).get("err_code") != next_if:
            break
    if error := answer.get("error"):
        reason = f"stream {name}: {error.get('description')}"
        if setting and for_want_of_room(error):
            raise DoesNotFit(f"{setting}: more than NATS has room for ({reason})")
        raise Unavailable(f"{setting}: {reason}" if setting else reason)


async def ensure_deliver(bus: Bus, *, replicas: int, max_age_seconds: int, max_mb: int) -> None:
    """Make the mailbox of all sessions: memory, no acknowledgements, old messages out first."""
    await ensure(
        bus,
        {
            "name": subjects.STREAM_DELIVER,
            "subjects": ["deliver.>"],
            "storage": "memory",
            "no_ack": True,
            "num_replicas": replicas,
            "max_age": max_age_seconds * SECOND_NS,
            "max_bytes": max_mb * MB,
            # Of one event to one session at one gateway: a flood evicts what is its own session's, and shows
            # (shared/messaging/mailbox.py).
            "max_msgs_per_subject": MAILBOX_MAX,
            "discard": "old",
            "allow_direct": True,
            "duplicate_window": 0,
        },
        setting=f"DELIVER_MAX_MB={max_mb}",
    )


async def ensure_events(bus: Bus, *, replicas: int, max_age_hours: int, max_mb: int) -> None:
    """Make the event log for monitoring, billing and push: on disk, for a bounded time."""
    await ensure(
        bus,
        {
            "name": subjects.STREAM_EVENTS,
            "subjects": ["event.>"],
            "storage": "file",
            "num_replicas": replicas,
            "max_age": max_age_hours * 3600 * SECOND_NS,
            "max_bytes": max_mb * MB,
            # Of one user and kind, or one call: so that no user evicts the records of others.
            "max_msgs_per_subject": EVENTS_PER_SUBJECT,
            "discard": "old",
            "allow_direct": True,
            "duplicate_window": 120 * SECOND_NS,
        },
        setting=f"EVENTS_MAX_MB={max_mb}",
    )


async def ensure_deadlines(bus: Bus, *, replicas: int) -> None:
    """Make the timers: a message scheduled at ``deadline.set.*`` appears at ``deadline.due.*`` when it is due."""
    await ensure(
        bus,
        {
            "name": subjects.STREAM_DEADLINES,
            "subjects": ["deadline.>"],
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "discard": "old",
            "allow_msg_ttl": True,
            "allow_msg_schedules": True,
            "allow_direct": True,
        },
    )


class StreamKeeper:
    """Makes the streams of a service, and makes them again after each reconnect.

    A server without replicas forgets memory streams when it restarts, and everything when its disk was replaced.
    """

    def __init__(self, bus: Bus, make: Callable[[], Awaitable[None]]) -> None:
        self._bus = bus
        self._make = make
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make it now; a cluster that has just been started takes some seconds until that works.

        Raises :class:`DoesNotFit` at once, and :class:`Unavailable` after :data:`MAKE_SECONDS`.
        """
        await self._until_made(time.monotonic() + MAKE_SECONDS)
        self._bus.on_reconnect.append(self._again)

    async def stop(self) -> None:
        """Stop making streams."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _again(self) -> None:
        await self.stop()
        self._task = asyncio.create_task(self._once_more(), name="streams")

    async def _once_more(self) -> None:
        await asyncio.sleep(_BACKOFF.seconds(0))  # not all at the moment that the server is back
        await self._until_made(math.inf)

    async def _until_made(self, until: float) -> None:
        """Try until it works; the server may take connections before it has its streams.

        Raises :class:`Unavailable` after ``until`` (monotonic seconds), or before if trying again cannot help.
        """
        said, again_at = "", 0.0
        while True:
            try:
                await self._make()
            except Unavailable as error:
                now = time.monotonic()
                if now > until or (isinstance(error, DoesNotFit) and until != math.inf):
                    raise
                if str(error) != said or now >= again_at:
                    said, again_at = str(error), now + SAY_SECONDS
                    log.warning("streams not there yet", reason=said)
                await asyncio.sleep(_BACKOFF.seconds(0))
                continue
            return
