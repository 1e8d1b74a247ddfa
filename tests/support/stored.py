"""What is stored in NATS once nobody calls anybody: nothing but calls that have ended."""

import asyncio
import json

import nats
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

_STREAM = "KV_calls"
_PREFIX = "$KV.calls."
_AT_ONCE = 64


async def busy(url: str) -> list[str]:
    """Everything in bucket ``calls`` that holds a user or lives: ``user.*`` with a value, calls that have not ended."""
    client: Client = await nats.connect(url, allow_reconnect=False)
    try:
        js = client.jetstream()
        free = asyncio.Semaphore(_AT_ONCE)

        async def look(subject: str) -> str | None:
            async with free:
                return await _look(js, subject)

        found = await asyncio.gather(*(look(subject) for subject in await _subjects(client)))
        return [what for what in found if what is not None]
    finally:
        await client.close()


async def _subjects(client: Client) -> list[str]:
    found: list[str] = []
    while True:
        query = json.dumps({"subjects_filter": f"{_PREFIX}>", "offset": len(found)}).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.{_STREAM}", query, timeout=5)).data)
        assert "error" not in answer, answer
        page = answer["state"].get("subjects") or {}
        found += page
        if not page or len(found) >= answer.get("total", 0):
            return found


async def _look(js: JetStreamContext, subject: str) -> str | None:
    try:
        message = await js.get_msg(_STREAM, subject=subject)
    except NotFoundError:
        return None
    key = subject.removeprefix(_PREFIX)
    if "KV-Operation" in (message.headers or {}) or not message.data:
        return None
    value = json.loads(message.data)
    if key.startswith("user."):
        return f"{key} is held: {value}"
    return None if value["state"] == "ended" else f"{key} is {value['state']}"
