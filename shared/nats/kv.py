"""Read and write JetStream key-value buckets.

They combine three things that nats-py's own do not: a TTL on every write, an expected revision on every write, and
reads that are not stale.

A bucket is the stream ``KV_<bucket>``; the ``nats kv`` command reads it.
"""

import asyncio
import json
import re
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

from shared.errors import Unavailable
from shared.nats import streams
from shared.nats.backoff import Backoff
from shared.nats.connection import Bus
from shared.nats.pending_requests import PendingRequest, Reply
from shared.observability.metrics import Histogram

ABSENT = 0
"""The revision to expect where there is no entry, and no marker of a deleted one."""

_WRONG_LAST_SEQUENCE = 10071
_NOT_FOUND = 10037
_NO_STREAM = 10059
MARKER_TTL_SECONDS = 10
_STORED = re.compile(rb'\{"stream":"\w+","seq":(\d+)\}')
"""The usual answer to a write. An answer with more in it is parsed as JSON."""
_SEQUENCE = re.compile(rb"\r\nNats-Sequence: ?(\d+)\r\n")
_DELETED = b"\r\nKV-Operation:"
_NOTHING_THERE = b"NATS/1.0 404"

_ROLLUP = "Nats-Rollup: sub\r\n"
"""Removes what was at the key before."""
_BEYOND = 2**31 - 1
"""An offset past all keys: the server then says how many there are and lists none."""
LOOK_SECONDS = 10.0
"""Seconds between two reads of a bucket's number of replicas. Until then one that gets replicas counts as without."""

_LOST_RACE = Backoff(first=0.004, longest=0.1, jitter=0.75)
"""Before a lost race is run again. Forty attempts take about two seconds."""

R = TypeVar("R")


class Conflict(Exception):
    """The key is not at the expected revision, because another instance wrote. Read and decide again."""


class NoBucket(Unavailable):
    """The bucket does not exist, because its owner has never run here. Raised by reads with ``fresh``."""


class Entry(NamedTuple):
    """The entry of a key. ``value`` is ``None`` if it was deleted a moment ago: absent, but with a revision.

    ``note``: the note that the delete left.
    """

    value: bytes | None
    revision: int
    note: bytes = b""


NOTHING = Entry(None, ABSENT)


def _as_it_is(entry: Entry) -> Entry:
    return entry


class Bucket:
    """One bucket. Each operation is sent when it is called; awaiting it returns its result.

    ``timeout``: seconds for each; all raise :class:`Unavailable` after it.
    """

    def __init__(self, bus: Bus, name: str, *, timeout: float = 2.0) -> None:
        self._bus = bus
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."
        self._directly = f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}"
        self._timeout = timeout
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._alone_until = 0.0
        self.name = name
        self.took = {"read": Histogram(), "write": Histogram()}
        """Duration of operations, in seconds."""
        self.conflicts = 0
        """Writes refused because the revision had changed, and decisions made again for that."""
        self.retries = 0

    async def lost_race(self, attempt: int) -> None:
        """Wait before a decision on an old revision is made again. ``attempt``: how often that was, from 0."""
        self.retries += 1
        await asyncio.sleep(_LOST_RACE.seconds(attempt))

    @staticmethod
    async def create(bus: Bus, name: str, *, replicas: int) -> None:
        """Make the bucket, or bring it to these settings if it exists."""
        await streams.ensure(
            bus,
            {
                "name": f"KV_{name}",
                "subjects": [f"$KV.{name}.>"],
                "storage": "file",
                "num_replicas": replicas,
                # Not 1: the server does not write down what that limit removes, so when a delete marker or an entry
                # with a TTL had expired, a SIGKILL brought the value before it back. What a rollup removes it does.
                "max_msgs_per_subject": -1,
                "discard": "new",
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "allow_direct": True,
                "allow_msg_ttl": True,
                "duplicate_window": 2 * 1_000_000_000,
            },
        )

    @overload
    def get(self, key: str, *, fresh: bool = False) -> PendingRequest[Entry]: ...

    @overload
    def get(self, key: str, *, fresh: bool = False, read: Callable[[Entry], R]) -> PendingRequest[R]: ...

    def get(
        self, key: str, *, fresh: bool = False, read: Callable[[Entry], Any] = _as_it_is
    ) -> PendingRequest[Any]:
        """Read the entry at ``key``, :data:`NOTHING` if there is none. Returns what ``read`` makes of it.

        Without ``fresh`` any replica may answer, so the answer may be older than what was already acknowledged:
        good enough to decide by compare-and-set. With ``fresh`` the stream's leader answers, or the only replica.
        """
        begun = time.perf_counter()

        def directly(data: bytes, head: bytes) -> Any:
            self.took["read"].observe(time.perf_counter() - begun)
            return read(self._entry(data, head))

        def by_leader(data: bytes, _head: bytes) -> Any:
            self.took["read"].observe(time.perf_counter() - begun)
            return read(self._entry_of_leader(json.loads(data)))

        def ask_leader() -> PendingRequest[Any]:
            query = json.dumps({"last_by_subj": self._prefix + key}).encode()
            return self._bus.ask(
                f"$JS.API.STREAM.MSG.GET.{self._stream}", query, by_leader, timeout=self._timeout
            )

        if fresh and not self._alone():
            return ask_leader()
        # No replica responds: the stream's leader knows if the bucket exists.
        return self._bus.ask(
            self._directly + key,
            b"",
            directly,
            timeout=self._timeout,
            nobody_there=ask_leader if fresh else None,
        )

    def _alone(self) -> bool:
        """True if there is one replica: it is the leader, and a direct get is as fresh as the JetStream API."""
        now = time.monotonic()
        if now >= self._look_at and (self._looking is None or self._looking.done()):
            self._look_at = now + LOOK_SECONDS
            self._looking = asyncio.create_task(self._look(now), name=f"look at {self._stream}")
        return now < self._alone_until

    async def _look(self, now: float) -> None:
        try:
            info = await streams.api(self._bus, f"STREAM.INFO.{self._stream}", {}, timeout=self._timeout)
        except Unavailable:
            return  # what was known runs out
        config, cluster = info.get("config") or {}, info.get("cluster") or {}
        alone = config.get("num_replicas") == 1 and not cluster.get("replicas")
        self._alone_until = now + LOOK_SECONDS + self._timeout if alone else 0.0

    def _entry(self, data: bytes, head: bytes) -> Entry:
        """Return the entry in the answer to a direct get."""
        if (sequence := _SEQUENCE.search(head)) is not None:
            revision = int(sequence[1])
            return Entry(None, revision, data) if _DELETED in head else Entry(data, revision)
        if head.startswith(_NOTHING_THERE):
            return NOTHING
        reason = Reply(data, head).headers.get("Description", "no reason given")
        raise Unavailable(f"bucket {self._stream} does not answer: {reason}")

    def _entry_of_leader(self, answer: dict[str, Any]) -> Entry:
        """Return the entry in an answer of the JetStream API."""
        if error := answer.get("error"):
            if error.get("err_code") == _NOT_FOUND:
                return NOTHING
            if error.get("err_code") == _NO_STREAM:
                raise NoBucket(f"bucket {self._stream} does not exist")
            raise Unavailable(f"bucket {self._stream}: {error.get('description')}")
        message = answer["message"]
        data, revision = b64decode(message.get("data", "")), message["seq"]
        deleted = _DELETED in b64decode(message.get("hdrs", ""))
        return Entry(None, revision, data) if deleted else Entry(data, revision)

    def put(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> PendingRequest[int]:
        """Write if the key is still at ``revision`` (:data:`ABSENT` for none); returns the new revision.

        ``ttl``: whole seconds after which the entry goes by itself. Raises :class:`Conflict`. After
        :class:`Unavailable` the write may have happened.
        """
        more = "" if ttl is None else f"Nats-TTL: {ttl}s\r\n"
        return self._write(key, value, f"Nats-Expected-Last-Subject-Sequence: {revision}\r\n{more}")

    def delete(self, key: str, revision: int, note: bytes = b"") -> PendingRequest[int]:
        """Delete if the key is still at ``revision``. Raises :class:`Conflict`.

        The marker that a delete leaves, with ``note``, goes after :data:`MARKER_TTL_SECONDS`, so that buckets do not
        fill with users who were here once.
        """
        return self._write(key, note, f"Nats-Expected-Last-Subject-Sequence: {revision}\r\n{_marker()}")

    def set(self, key: str, value: bytes = b"{}") -> PendingRequest[int]:
        """Write without an expected revision: for keys on whose value no decision depends."""
        return self._write(key, value, "")

    def unset(self, key: str) -> PendingRequest[int]:
        """Delete without an expected revision."""
        return self._write(key, b"", _marker())

    def _write(self, key: str, value: bytes, lines: str) -> PendingRequest[int]:
        begun = time.perf_counter()

        def stored(data: bytes, _head: bytes) -> int:
            self.took["write"].observe(time.perf_counter() - begun)
            if (plain := _STORED.fullmatch(data)) is not None:
                if self._bus.full:
                    self._bus.full.stored(self._stream)
                return int(plain[1])
            answer = json.loads(data)
            if error := answer.get("error"):
                if error.get("err_code") == _WRONG_LAST_SEQUENCE:
                    self.conflicts += 1
                    raise Conflict(key)
                self._bus.full.note(self._stream, error)
                raise Unavailable(f"bucket {self._stream}: {error.get('description')}")
            return int(answer["seq"])

        head = f"NATS/1.0\r\n{lines}{_ROLLUP}\r\n".encode()
        return self._bus.ask(self._prefix + key, value, stored, timeout=self._timeout, head=head)

    async def count(self, filter_: str) -> int:
        """Count the keys that match, those deleted in the last seconds included. Raises :class:`Unavailable`."""
        answer = await streams.api(
            self._bus,
            f"STREAM.INFO.{self._stream}",
            {"subjects_filter": self._prefix + filter_, "offset": _BEYOND},
            timeout=self._timeout,
        )
        if error := answer.get("error"):
            raise Unavailable(f"bucket {self._stream}: {error.get('description')}")
        return int(answer.get("total", 0))

    async def keys(self, filter_: str = ">") -> list[str]:
        """Return the keys that match, recently deleted ones included. Not for the hot path."""
        found: list[str] = []
        while True:
            answer = await streams.api(
                self._bus,
                f"STREAM.INFO.{self._stream}",
                {"subjects_filter": self._prefix + filter_, "offset": len(found)},
                timeout=self._timeout,
            )
            if error := answer.get("error"):
                raise Unavailable(f"bucket {self._stream}: {error.get('description')}")
            page = answer["state"].get("subjects") or {}
            found += [subject.removeprefix(self._prefix) for subject in page]
            if not page or len(found) >= answer.get("total", 0):
                return found


def _marker() -> str:
    return f"KV-Operation: DEL\r\nNats-TTL: {MARKER_TTL_SECONDS}s\r\n"
