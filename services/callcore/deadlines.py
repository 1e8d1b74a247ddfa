"""Ring deadlines: timers that the NATS server keeps, so that they fire whoever died meanwhile.

A deadline is a scheduled message; at its time it goes to one live instance through a shared consumer, and to another
if that one does not acknowledge. Late ones, e.g. after everything was down, fire at start.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from services.callcore.model import Call
from shared import logs, subjects
from shared.bus import Bus
from shared.errors import SignallingError, Unavailable

log = logs.get(__name__)

RING = "ring"
_CONSUMER = "callcore"
_ACK_WAIT_SECONDS = 5
_FETCH = 64
_FETCH_SECONDS = 5.0
_TTL_SECONDS = 600
"""How long a deadline that fired waits for somebody to take it."""
_PAUSE_SECONDS = 1.0

Fire = Callable[[str], Awaitable[None]]


class Deadlines:
    """Sets ring deadlines and hands those that are due to ``fire`` (call id); it may raise to get them again."""

    def __init__(self, bus: Bus, fire: Fire) -> None:
        self._bus = bus
        self._fire = fire
        self._task: asyncio.Task[None] | None = None

    async def set_ring(self, call: Call) -> None:
        """Let the call time out at ``expires_at``. Raises :class:`Unavailable` if that is not certain."""
        at = datetime.fromtimestamp(call.expires_at / 1000, UTC).isoformat().replace("+00:00", "Z")
        headers = {
            "Nats-Schedule": f"@at {at}",
            "Nats-Schedule-Target": subjects.deadline_due(RING, call.call),
            "Nats-Schedule-TTL": f"{_TTL_SECONDS}s",
        }
        msg = await self._bus.request(
            subjects.deadline_set(RING, call.call), b"", timeout=2.0, headers=headers
        )
        if error := json.loads(msg.data).get("error"):
            raise Unavailable(f"deadline not set: {error.get('description')}")

    def start(self) -> None:
        """Begin to take deadlines that are due."""
        self._task = asyncio.create_task(self._run(), name="deadlines")

    async def stop(self) -> None:
        """Take no more; one that is in hand and not done goes to another instance."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._consume()
            except (nats.errors.Error, Unavailable, OSError) as error:
                log.warning("deadlines paused", error=str(error) or type(error).__name__)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _consume(self) -> None:
        config = ConsumerConfig(
            durable_name=_CONSUMER,
            filter_subject=subjects.DEADLINE_DUE_ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_SECONDS,
        )
        js = self._bus.client.jetstream()
        consumer = await js.pull_subscribe(
            subjects.DEADLINE_DUE_ALL, durable=_CONSUMER, stream=subjects.STREAM_DEADLINES, config=config
        )
        try:
            while True:
                try:
                    due = await consumer.fetch(_FETCH, timeout=_FETCH_SECONDS)
                except nats.errors.TimeoutError:
                    continue  # nothing was due
                await asyncio.gather(*(self._take(msg) for msg in due))
        finally:
            if self._bus.connected:
                await consumer.unsubscribe()

    async def _take(self, msg: Msg) -> None:
        _, call = subjects.parse_deadline(msg.subject)
        try:
            await self._fire(call)
            await msg.ack()
        except (SignallingError, nats.errors.Error) as error:
            log.warning("deadline not done yet", call=call, error=str(error) or type(error).__name__)
        except Exception:
            log.exception("deadline failed", call=call)
