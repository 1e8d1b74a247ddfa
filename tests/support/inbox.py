"""What one client has received: every event, in order, each to be expected exactly once."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

PATIENCE_SECONDS = 15.0
"""How long an expected thing may take on a machine that is busy with other tests."""


@dataclass(frozen=True, slots=True)
class Received:
    """One event. ``data`` is its first argument, which is the only one that the server ever sends."""

    event: str
    data: Any


class Inbox:
    """Events of one client. What was received and not expected is left over, and shows in :meth:`leftovers`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.all: list[Received] = []
        self._pending: list[Received] = []
        self._counts: Counter[str] = Counter()
        self._changed = asyncio.Event()

    def put(self, event: str, data: Any) -> None:
        """An event has come in."""
        received = Received(event, data)
        self.all.append(received)
        self._pending.append(received)
        self._counts[event] += 1
        self._changed.set()

    async def expect(self, event: str, /, *, timeout: float = PATIENCE_SECONDS, **match: Any) -> Any:
        """The payload of the first ``event`` not taken yet whose keys equal ``match`` (``from_`` for ``from``)."""
        wanted = {key.rstrip("_"): value for key, value in match.items()}

        def found() -> Received | None:
            return next((r for r in self._pending if r.event == event and _matches(r.data, wanted)), None)

        try:
            async with asyncio.timeout(timeout):
                while (received := found()) is None:
                    await self._wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.name} got no {event} {wanted or ''} in {timeout} s; not taken: {self._pending[-10:]}"
            ) from None
        self._pending.remove(received)
        return received.data

    async def expect_any(self, *events: str, timeout: float = PATIENCE_SECONDS, **match: Any) -> Received:
        """The first of ``events`` not taken yet whose keys equal ``match``."""
        wanted = {key.rstrip("_"): value for key, value in match.items()}
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for received in self._pending:
                        if received.event in events and _matches(received.data, wanted):
                            self._pending.remove(received)
                            return received
                    await self._wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.name} got none of {events} {wanted or ''} in {timeout} s; "
                f"not taken: {self._pending[-10:]}"
            ) from None

    async def expect_many(self, event: str, count: int, *, timeout: float = PATIENCE_SECONDS) -> list[Any]:
        """The payloads of all ``event`` once there are ``count`` that nobody has taken."""
        try:
            async with asyncio.timeout(timeout):
                while self._counts[event] < count or len(self.of(event)) < count:
                    await self._wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.name} got {len(self.of(event))} of {count} {event} in {timeout} s"
            ) from None
        taken = self.of(event)
        self._pending = [r for r in self._pending if r.event != event]
        return taken

    def of(self, event: str) -> list[Any]:
        """The payloads of all ``event`` that nobody has taken."""
        return [r.data for r in self._pending if r.event == event]

    def seen(self, event: str, /, **match: Any) -> list[Any]:
        """The payloads of all ``event`` ever received whose keys equal ``match``."""
        wanted = {key.rstrip("_"): value for key, value in match.items()}
        return [r.data for r in self.all if r.event == event and _matches(r.data, wanted)]

    def leftovers(self) -> list[Received]:
        """What came in and nobody expected."""
        return list(self._pending)

    def forget(self) -> None:
        """Take everything that is there."""
        self._pending.clear()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _matches(data: Any, wanted: dict[str, Any]) -> bool:
    return all(isinstance(data, dict) and key in data and data[key] == wanted[key] for key in wanted)
