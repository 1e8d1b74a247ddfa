"""What is stored in NATS: nothing but calls that have ended, once nobody calls anybody."""

import asyncio
import json
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from signalling.nats_users import MONITOR
from tests.support.nats_users import Access

_CALLS = "calls"
_SESSIONS = "sessions"
_AT_ONCE = 64


async def busy(access: Access) -> list[str]:
    """Everything in bucket ``calls`` that holds a user or lives: ``user.*`` with a value, calls that have not ended."""
    found = []
    for key, value in (await _values(access, "callcore", _CALLS)).items():
        if key.startswith("user."):
            found.append(f"{key} is held: {value}")
        elif key.startswith("call.") and value["state"] != "ended":
            found.append(f"{key} is {value['state']}")
    return found


async def sessions(access: Access) -> list[str]:
    """The keys of bucket ``sessions`` with a value that are about sessions: ``user.*`` and ``at.*``."""
    keys = await _values(access, "presence", _SESSIONS)
    return [key for key in keys if not key.startswith(("gateway.", "joins."))]


async def events(access: Access, subject: str) -> list[dict[str, Any]]:
    """The records at a subject of stream ``EVENTS``, oldest first."""
    found: list[dict[str, Any]] = []
    async with access.connect(MONITOR) as client:
        js, seq = client.jetstream(), 1
        while True:
            try:
                message = await js.get_msg("EVENTS", seq=seq, subject=subject, next=True)
            except NotFoundError:
                return found
            assert message.seq is not None
            found.append(json.loads(message.data or b"{}"))
            seq = message.seq + 1


async def behind(access: Access) -> list[str]:
    """The streams of a cluster of which not every replica is up to date, or whose leader is being elected."""
    async with access.connect(MONITOR) as client:
        try:
            answer = json.loads((await client.request("$JS.API.STREAM.LIST", b"", timeout=5)).data)
        except nats.errors.Error as error:  # who answers is being elected
            return [f"any: {error}"]
        assert "error" not in answer, answer
        groups = {stream["config"]["name"]: stream.get("cluster", {}) for stream in answer["streams"] or ()}
        missing = answer.get("missing") or []
    return [*missing, *(name for name, group in groups.items() if not _whole(group))]


def _whole(group: dict[str, Any]) -> bool:
    replicas = group.get("replicas") or ()
    return bool(group.get("leader")) and all(r["current"] and not r.get("offline") for r in replicas)


async def _values(access: Access, owner: str, bucket: str) -> dict[str, Any]:
    """Key → value of all keys of a bucket that have one."""
    async with access.connect(owner) as client:
        js = client.jetstream()
        free = asyncio.Semaphore(_AT_ONCE)

        async def look(subject: str) -> tuple[str, Any] | None:
            async with free:
                return await _look(js, bucket, subject)

        found = await asyncio.gather(*(look(subject) for subject in await _subjects(client, bucket)))
        return dict(each for each in found if each is not None)


async def _subjects(client: Client, bucket: str) -> list[str]:
    found: list[str] = []
    while True:
        query = json.dumps({"subjects_filter": f"$KV.{bucket}.>", "offset": len(found)}).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.KV_{bucket}", query, timeout=5)).data)
        assert "error" not in answer, answer
        page = answer["state"].get("subjects") or {}
        found += page
        if not page or len(found) >= answer.get("total", 0):
            return found


async def _look(js: JetStreamContext, bucket: str, subject: str) -> tuple[str, Any] | None:
    try:
        message = await js.get_msg(f"KV_{bucket}", subject=subject)
    except NotFoundError:
        return None
    if "KV-Operation" in (message.headers or {}) or not message.data:
        return None
    return subject.removeprefix(f"$KV.{bucket}."), json.loads(message.data)
