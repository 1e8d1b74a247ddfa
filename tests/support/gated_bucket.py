"""A bucket whose operations happen when the test says so, for exploring interleavings.

Not a stand-in for NATS in any other test: what it claims about buckets is checked against a real server in
``tests/integration/test_kv.py``.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from shared.nats.kv import ABSENT, NOTHING, Conflict, Entry


class Gate:
    """Operations that wait for their turn. :meth:`settle` lets all coroutines run until each waits at the gate."""

    def __init__(self) -> None:
        self.waiting: list[tuple[asyncio.Future[None], str]] = []

    async def turn(self, what: str) -> None:
        """Wait until the test lets this operation happen."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (future, what)
        self.waiting.append(entry)
        try:
            await future
        finally:
            if entry in self.waiting:
                self.waiting.remove(entry)

    async def settle(self) -> None:
        """Run everything that can run without a turn."""
        for _ in range(12):
            await asyncio.sleep(0)

    async def let(self, index: int) -> str:
        """Let one waiting operation happen and everything that follows from it up to the next gate."""
        future, what = self.waiting.pop(index % len(self.waiting))
        if not future.done():
            future.set_result(None)
        await self.settle()
        return what


class GatedBucket:
    """:class:`shared.nats.kv.Bucket` in memory, every operation atomic and at the gate."""

    def __init__(
        self, gate: Gate, name: str, on_write: Callable[[str, Entry, bytes | None], None] | None = None
    ) -> None:
        self._gate = gate
        self._name = name
        self._on_write = on_write
        self._revision = 0
        self.entries: dict[str, Entry] = {}

    def get(
        self, key: str, *, fresh: bool = False, read: Callable[[Entry], Any] = lambda entry: entry
    ) -> asyncio.Future[Any]:
        return self._begun(f"get {key}", lambda: read(self.entries.get(key, NOTHING)))

    def put(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> asyncio.Future[int]:
        return self._begun(f"put {key}", lambda: self.write(key, value, revision))

    def delete(self, key: str, revision: int, note: bytes = b"") -> asyncio.Future[int]:
        return self._begun(f"delete {key}", lambda: self.write(key, None, revision, note))

    def _begun(self, what: str, do: Callable[[], Any]) -> asyncio.Future[Any]:
        async def in_turn() -> Any:
            await self._gate.turn(f"{self._name} {what}")
            return do()

        return asyncio.ensure_future(in_turn())

    def set(self, key: str, value: bytes = b"{}") -> asyncio.Future[int]:
        return self._begun(f"set {key}", lambda: self.write(key, value))

    def unset(self, key: str) -> asyncio.Future[int]:
        return self._begun(f"unset {key}", lambda: self.write(key, None))

    def keys(self, filter_: str = ">") -> asyncio.Future[list[str]]:
        return self._begun("keys", lambda: list(self.entries))

    def write(self, key: str, value: bytes | None, revision: int | None = None, note: bytes = b"") -> int:
        """The write itself; without ``revision`` unconditionally, for the test's own hand."""
        before = self.entries.get(key, NOTHING)
        if revision is not None and revision != before.revision:
            raise Conflict(key)
        after = Entry(value, self._next_revision(before), note)
        self.entries[key] = after
        if self._on_write is not None:
            self._on_write(key, before, value)
        return after.revision

    def _next_revision(self, _before: Entry) -> int:
        """One sequence for all keys of the bucket, as in a stream."""
        self._revision += 1
        return self._revision


def is_absent(entry: Entry) -> bool:
    """Whether a key has never been written."""
    return entry.revision == ABSENT


Told = tuple[str, str, dict[str, Any]]
"""(session, event, payload)"""
