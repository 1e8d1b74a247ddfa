"""Reading what streams and buckets hold, without consumers: nothing is left behind on the server."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared import streams
from shared.bus import Bus
from shared.errors import Unavailable

_BATCH = 256
_SECONDS = 5.0
_BEYOND = 10**9


class Message(NamedTuple):
    """One stored message. ``at``: milliseconds since the epoch. ``deleted``: the marker of a key that is gone."""

    subject: str
    at: int
    payload: bytes
    deleted: bool


async def scan(
    bus: Bus, stream: str, filter_: str, *, since_ms: int = 0, most: int
) -> AsyncIterator[Message]:
    """The messages of ``stream`` at ``filter_``, oldest first, ``most`` at most; from any replica.

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


async def info(bus: Bus, stream: str, *, count: str | None = None) -> dict[str, Any] | None:
    """What the server says of a stream; ``None`` if it does not exist.

    ``count``: a filter; ``total`` says then at how many subjects that match there is a message.
    """
    body = {"subjects_filter": count, "offset": _BEYOND} if count is not None else {}
    answer = await streams.api(bus, f"STREAM.INFO.{stream}", body, timeout=_SECONDS)
    return None if "error" in answer else answer


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def _millis(text: str) -> int:
    return int(datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp() * 1000)
