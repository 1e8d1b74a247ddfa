"""What happened, recorded in the stream EVENTS: beside the work, not in its way, and not forgotten either."""

import asyncio
import json
import random
import time

from shared import logs
from shared.bus import Bus
from shared.contracts.wire import Wire
from shared.errors import Unavailable

log = logs.get(__name__)

WAITING_MAX = 4_096
"""Records that may wait for their acknowledgement; past it new ones are dropped, loudly."""
TRY_SECONDS = 60.0
"""Longer than NATS is away when it restarts or elects a leader, shorter than it knows what came twice."""
ACK_SECONDS = 2.0
_PAUSE_MAX_SECONDS = 4.0


class Recorder:
    """Publishes to EVENTS with an acknowledgement, again and again for a minute, each record once (by its id)."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0
        """Records that were dropped, refused, or not acknowledged in time."""

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged yet."""
        return len(self._tasks)

    def record(self, subject: str, id_: str, body: Wire) -> None:
        """Record ``body`` at ``subject``. ``id_``: the same for the same happening, however often it is told."""
        if len(self._tasks) >= WAITING_MAX:
            self.lost += 1
            log.error("event dropped: too many are waiting", subject=subject)
            return
        task = asyncio.create_task(self._publish(subject, id_, body.dump()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, subject: str, id_: str, payload: bytes) -> None:
        until = time.monotonic() + TRY_SECONDS
        pause = 0.25
        while time.monotonic() < until:
            try:
                msg = await self._bus.request(
                    subject, payload, timeout=ACK_SECONDS, headers={"Nats-Msg-Id": id_}
                )
            except Unavailable:
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(2 * pause, _PAUSE_MAX_SECONDS)
                continue
            if error := json.loads(msg.data).get("error"):
                self.lost += 1
                log.error("event refused", subject=subject, reason=error.get("description"))
            return
        self.lost += 1
        log.error("event lost", subject=subject)

    async def drain(self, timeout: float) -> None:
        """Wait for the acknowledgements of what was recorded, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
