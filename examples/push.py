"""What to push to phones: who is being rung, and when it is over. Put your FCM and APNs calls into ``push``.

    NATS_URL=nats://127.0.0.1:4222 NATS_USER=monitor NATS_PASSWORD=… python examples/push.py

It needs nothing but nats-py. A push that comes late is of no use, so it hears events as they pass and reads no history.
Run two: the ``callId`` as collapse id makes one notification of what both push. docs/clients.md says what apps do
with it.
"""

import asyncio
import json
import os
import signal

import nats
from nats.aio.msg import Msg


async def push(user: str, message: dict[str, str]) -> None:
    """To each device of ``user``, by the tokens that your database has."""
    print(json.dumps({"to": user, **message}), flush=True)


async def main() -> None:
    """Push until SIGINT or SIGTERM."""
    client = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222").split(","),
        user=os.environ.get("NATS_USER", "monitor"),
        password=os.environ.get("NATS_PASSWORD"),
        inbox_prefix="_INBOX.monitor",
        max_reconnect_attempts=-1,
    )

    async def rings(message: Msg) -> None:
        call = json.loads(message.data)
        told = {key: call[key] for key in ("callId", "caller", "callType")}
        await push(call["callee"], {"what": "rings", **told})

    async def rings_no_more(message: Msg) -> None:
        call = json.loads(message.data)
        if "acceptedAt" not in call or "endedAt" not in call:  # else it had been answered long before
            why = call.get("reason", "answered")
            await push(call["callee"], {"what": "over", "callId": call["callId"], "reason": why})

    await client.subscribe("event.call.*.initiated", cb=rings)
    for what in ("accepted", "rejected", "ended"):
        await client.subscribe(f"event.call.*.{what}", cb=rings_no_more)
    await client.flush()
    print("ready", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main())
