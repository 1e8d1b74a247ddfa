"""JetStream key-value buckets, with the three things that nats-py's own do not give together: a TTL on every write,
an expected revision on every write, and reads that may not be stale.

A bucket is the stream ``KV_<bucket>``; the ``nats kv`` command reads it.
"""

import asyncio
import json
import re
import time
from base64 import b64decode
from typing import NamedTuple

from shared import streams
from shared.backoff import back_off
from shared.bus import Bus
from shared.errors import NotSent, Unavailable
from shared.metrics import Histogram

ABSENT = 0
"""The revision to expect where there is no entry, and no marker of a deleted one."""

_WRONG_LAST_SEQUENCE = 10071
_NOT_FOUND = 10037
_NO_STREAM = 10059
MARKER_TTL_SECONDS = 10
_STORED = re.compile(rb'\{"stream":"\w+","seq":(\d+)\}')
"""What NATS says of most writes; JSON like all that it says, and read as such where it says more."""
_ROLLUP = {"Nats-Rollup": "sub"}
"""Removes what was at the key before."""
LOOK_SECONDS = 10.0
"""How often a bucket is asked whether it has copies. One that is given copies is believed to have none until then."""


class Conflict(Exception):
    """The key is not at the expected revision: somebody else wrote. Read again and decide again."""


class NoBucket(Unavailable):
    """The bucket does not exist, because its owner has never run here. Told by reads with ``fresh``."""


class Entry(NamedTuple):
    """What a key holds. ``value`` is ``None`` if it was deleted a moment ago: absent, but with a revision."""

    value: bytes | None
    revision: int


NOTHING = Entry(None, ABSENT)


class Bucket:
    """One bucket. ``timeout``: seconds for each operation; all raise :class:`Unavailable` when it is over."""

    def __init__(self, bus: Bus, name: str, *, timeout: float = 2.0) -> None:
        self._bus = bus
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."
        self._timeout = timeout
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._alone_until = 0.0
        self.name = name
        self.took = {"read": Histogram(), "write": Histogram()}
        """How long answers took, in seconds."""
        self.conflicts = 0
        """Writes that came too late, and decisions made again."""
        self.retries = 0

    async def lost_race(self, attempt: int) -> None:
        """Wait a little before what was decided on an old revision is decided again."""
        self.retries += 1
        await back_off(attempt)

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

    async def get(self, key: str, *, fresh: bool = False) -> Entry:
        """The entry at ``key``, :data:`NOTHING` if there is none.

        Without ``fresh`` any replica may answer, so the answer may be older than what was already acknowledged:
        good enough to decide by compare-and-set. With ``fresh`` the stream's leader answers, or the only replica.
        """
        if fresh and not self._alone():
            return await self._get_from_leader(key)
        begun = time.perf_counter()
        try:
            msg = await self._bus.request(
                f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}{key}", b"", timeout=self._timeout
            )
        except NotSent:
            if not fresh:
                raise
            return await self._get_from_leader(key)  # which knows whether there is such a bucket
        self.took["read"].observe(time.perf_counter() - begun)
        headers = msg.headers
        if "Nats-Sequence" in headers:
            return Entry(msg.data if "KV-Operation" not in headers else None, int(headers["Nats-Sequence"]))
        if headers.get("Status") == "404":
            return NOTHING
        raise Unavailable(
            f"bucket {self._stream} does not answer: {headers.get('Description', 'no reason given')}"
        )

    def _alone(self) -> bool:
        """Whether there is one replica: whoever answers is the leader then, and may be asked past the JetStream API."""
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

    async def _get_from_leader(self, key: str) -> Entry:
        begun = time.perf_counter()
        answer = await streams.api(
            self._bus,
            f"STREAM.MSG.GET.{self._stream}",
            {"last_by_subj": self._prefix + key},
            timeout=self._timeout,
        )
        self.took["read"].observe(time.perf_counter() - begun)
        if error := answer.get("error"):
            if error.get("err_code") == _NOT_FOUND:
                return NOTHING
            if error.get("err_code") == _NO_STREAM:
                raise NoBucket(f"bucket {self._stream} does not exist")
            raise Unavailable(f"bucket {self._stream}: {error.get('description')}")
        message = answer["message"]
        deleted = b"KV-Operation" in b64decode(message.get("hdrs", ""))
        return Entry(None if deleted else b64decode(message.get("data", "")), message["seq"])

    async def put(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        """Write if the key is still at ``revision`` (:data:`ABSENT` for none); returns the new revision.

        ``ttl``: whole seconds after which the entry goes by itself. Raises :class:`Conflict`. After
        :class:`Unavailable` it is not known whether the write happened.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        if ttl is not None:
            headers["Nats-TTL"] = f"{ttl}s"
        return await self._publish(key, value, headers)

    async def delete(self, key: str, revision: int) -> None:
        """Delete if the key is still at ``revision``. Raises :class:`Conflict`.

        The marker that a delete leaves goes after :data:`MARKER_TTL_SECONDS`, so that buckets do not fill with
        users who were here once.
        """
        await self._publish(
            key,
            b"",
            {
                "Nats-Expected-Last-Subject-Sequence": str(revision),
                "KV-Operation": "DEL",
                "Nats-TTL": f"{MARKER_TTL_SECONDS}s",
            },
        )

    async def set(self, key: str, value: bytes = b"{}") -> None:
        """Write, whatever is there: for keys whose value says nothing that a decision hangs on."""
        await self._publish(key, value, {})

    async def unset(self, key: str) -> None:
        """Delete, whatever is there."""
        await self._publish(key, b"", {"KV-Operation": "DEL", "Nats-TTL": f"{MARKER_TTL_SECONDS}s"})

    async def _publish(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        begun = time.perf_counter()
        msg = await self._bus.request(
            self._prefix + key, value, timeout=self._timeout, headers={**headers, **_ROLLUP}
        )
        self.took["write"].observe(time.perf_counter() - begun)
        if (stored := _STORED.fullmatch(msg.data)) is not None:
            return int(stored[1])
        answer = json.loads(msg.data)
        if error := answer.get("error"):
            if error.get("err_code") == _WRONG_LAST_SEQUENCE:
                self.conflicts += 1
                raise Conflict(key)
            raise Unavailable(f"bucket {self._stream}: {error.get('description')}")
        return int(answer["seq"])

    async def keys(self, filter_: str = ">") -> list[str]:
        """The keys that match, deleted ones of the last seconds included; for sweeps, not for the hot path."""
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
