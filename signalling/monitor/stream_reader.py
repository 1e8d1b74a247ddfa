"""Read streams and buckets without consumers, so that nothing is created on the server."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared.errors import Unavailable
from shared.nats import streams
from shared.nats.connection import Bus

_BATCH = 256
_SECONDS = 5.0


class Message(NamedTuple):
    """Describes a stored message. ``at``: ms since the epoch. ``deleted``: True if it marks a deleted key."""

    subject: str
    at: int
    payload: bytes
    deleted: bool


async def scan(
    bus: Bus, stream: str, filter_: str, *, since_ms: int = 0, most: int
) -> AsyncIterator[Message]:
    """Return the messages of ``stream`` at ``filter_``, oldest first, ``most`` at most; from any replica.

    Raises :class:`Unavailable`, also if the stream does not exist.
    """
    where: dict[str, Any] = {"start_time": _time(since_ms)} if since_ms else {"seq": 1}
    left = most
    while left > 0:
        query = {"next_by_subj": filter_, **where, "batch": min(_BATCH, left)}
        *batch, end = await bus.request_many(
            f"$JS.API.DIRECT.GET.{stream}", json.dumps(query).encode(), most=_BATCH + 1, timeout=_SECONDS
        )
        if (end.headers or {}).get("Status") not in ("204", "404"):
            raise Unavailable(f"stream {stream} does not answer")
        for msg in batch:
            headers = msg.headers or {}
            yield Message(
                headers["Nats-Subject"],
                _millis(headers["Nats-Time-Stamp"]),
                msg.data,
                "KV-Operation" in headers,
            )
            where = {"seq": int(headers["Nats-Sequence"]) + 1}
        if not batch:
            return
        left -= len(batch)


async def infos(bus: Bus) -> dict[str, dict[str, Any]]:
    """Return NATS's report of each stream, by name. Raises :class:`Unavailable`."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        answer = await streams.api(bus, "STREAM.LIST", {"offset": len(found)}, timeout=_SECONDS)
        if error := answer.get("error"):
            raise Unavailable(f"streams: {error.get('description')}")
        page = answer.get("streams") or ()
        found |= {stream["config"]["name"]: stream for stream in page}
        if not page or len(found) >= answer.get("total", 0):
            return found


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def _millis(text: str) -> int:
    return int(datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp() * 1000)
