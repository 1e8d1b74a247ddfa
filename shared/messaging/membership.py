"""Track live instances by their heartbeats, and find the owner of a key.

Beats are plain NATS messages, not keys: they need no storage, and after a NATS outage they are simply there again.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b

from nats.aio.msg import Msg

from shared import subjects
from shared.clock import now_ms
from shared.contracts.liveness import Beat
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

BEAT_SECONDS = 1.0
SILENT_SECONDS = 3.5
"""An instance without a heartbeat for this long counts as gone: three beats and a margin."""

OWNERS_MAX = 10_000
"""Keys whose instance is remembered until an instance comes or goes; past it all are hashed anew."""


class Beacon:
    """Publishes heartbeats of this instance: every second, on a roll call, and a last one when it stops.

    ``sockets``: how many clients are connected here, at a gateway.
    """

    def __init__(
        self, bus: Bus, service: str, instance: str, version: str, *, sockets: Callable[[], int] | None = None
    ) -> None:
        self._bus = bus
        self._sockets = sockets
        self._subject = subjects.live(service, instance)
        self._beat = Beat(version=version, started_at=now_ms())
        self._ticks = PeriodicTask("beacon", BEAT_SECONDS, self._send, at_once=True)

    async def start(self) -> None:
        """Start heartbeats; call it when the instance is ready to work."""
        await self._bus.subscribe(subjects.ROLLCALL, self._on_rollcall)
        self._ticks.start()

    async def stop(self) -> None:
        """Stop heartbeats and announce that the instance leaves; call it before the instance stops working."""
        await self._ticks.stop()
        with suppress(Unavailable):
            self._bus.publish(self._subject, self._beat.model_copy(update={"leaving": True}).dump())

    async def _on_rollcall(self, _: Msg) -> None:
        if self._ticks.running:
            self._send()

    def _send(self) -> None:
        beat = self._beat
        if self._sockets is not None:
            beat = beat.model_copy(update={"sockets": self._sockets()})
        if full := self._bus.full.streams():
            beat = beat.model_copy(update={"full": list(full)})
        with suppress(Unavailable):  # the next one is a second away
            self._bus.publish(self._subject, beat.dump())


class Membership:
    """Tracks the live instances of the named services. ``generation`` grows whenever the answer may have changed."""

    def __init__(self, bus: Bus, *services: str) -> None:
        self._bus = bus
        self._heard: dict[str, dict[str, float]] = {service: {} for service in services}
        self._full: dict[str, list[str]] = {}
        self._lists: dict[str, tuple[str, ...]] = dict.fromkeys(services, ())
        self._owners: dict[tuple[str, str], str | None] = {}
        self._ticks = PeriodicTask("members", BEAT_SECONDS, self._expire)
        self._changed = asyncio.Event()
        self.generation = 0

    async def start(self) -> None:
        """Subscribe to heartbeats, and publish a roll call."""
        for (
            service
        ) in self._heard:  # not all of them: beats of all to all would grow with the square of gateways
            await self._bus.subscribe(subjects.live_all(service), self._on_beat)
        self._bus.on_reconnect.append(self._ask)
        await self._ask()
        self._ticks.start()

    async def stop(self) -> None:
        """Stop dropping silent instances."""
        await self._ticks.stop()

    def alive(self, service: str) -> tuple[str, ...]:
        """Return the live instances of ``service``, sorted by name."""
        return self._lists[service]

    def full(self) -> tuple[str, ...]:
        """Return the streams that an instance of these services reports as full, sorted."""
        return tuple(sorted({stream for streams in self._full.values() for stream in streams}))

    def owner(self, service: str, key: str) -> str | None:
        """Return the owner of ``key``, ``None`` without an instance. The same instances give the same owner.

        Rendezvous hashing: when an instance comes or goes, only its own keys move.
        """
        asked = (service, key)
        if asked in self._owners:
            return self._owners[asked]
        if len(self._owners) >= OWNERS_MAX:
            self._owners.clear()
        owner = self._owners[asked] = owner_of(self._lists[service], key)
        return owner

    def drop(self, service: str, instance: str) -> None:
        """Remove an instance that does not respond; its next heartbeat adds it again."""
        self._full.pop(instance, None)
        if self._heard[service].pop(instance, None) is not None:
            self._refresh(service)

    async def wait_for(self, service: str, timeout: float) -> bool:
        """Wait for an instance of ``service``. Returns False after ``timeout`` seconds without one."""
        try:
            async with asyncio.timeout(timeout):
                while not self._lists[service]:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _ask(self) -> None:
        with suppress(Unavailable):
            self._bus.publish(subjects.ROLLCALL)

    async def _on_beat(self, msg: Msg) -> None:
        service, instance = subjects.parse_live(msg.subject)
        heard = self._heard.get(service)
        if heard is None:
            return
        beat = Beat.model_validate_json(msg.data)
        if beat.leaving:
            self.drop(service, instance)
            return
        if beat.full:
            self._full[instance] = beat.full
        else:
            self._full.pop(instance, None)
        new = instance not in heard
        heard[instance] = time.monotonic()
        if new:
            self._refresh(service)

    def _expire(self) -> None:
        if not self._bus.connected:
            # No heartbeat can arrive; those after the reconnect show which instances are alive.
            now = time.monotonic()
            for heard in self._heard.values():
                heard.update(dict.fromkeys(heard, now))
            return
        horizon = time.monotonic() - SILENT_SECONDS
        for service, heard in self._heard.items():
            for instance in [name for name, at in heard.items() if at < horizon]:
                self.drop(service, instance)

    def _refresh(self, service: str) -> None:
        self._lists[service] = tuple(sorted(self._heard[service]))
        self._owners.clear()
        self.generation += 1
        self._changed.set()
        log.info("members changed", of=service, alive=list(self._lists[service]))


def owner_of(instances: Iterable[str], key: str) -> str | None:
    """Return which of the instances owns ``key``, by one hash for each; ``None`` for no instances."""
    return max(instances, key=lambda name: _weight(name, key), default=None)


def _weight(name: str, key: str) -> bytes:
    return blake2b(key.encode(), key=name.encode(), digest_size=8).digest()
