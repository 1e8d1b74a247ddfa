"""Send push notifications when a call rings and when it stops. Put your FCM and APNs calls into ``push``.

    NATS_URL=nats://127.0.0.1:4222 NATS_USER=monitor NATS_PASSWORD=… python examples/push.py

It needs only nats-py. A late push is useless, so it subscribes to live events and reads no history.
Run two: the ``callId`` as collapse id makes one notification of what both push. docs/clients.md says what apps do
with it.
"""

import asyncio
import json
import os
import signal
import sys

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

CONNECT_SECONDS = 5


async def push(user: str, message: dict[str, str]) -> None:
    """Push to each device of ``user``, by the tokens in your database."""
    print(json.dumps({"to": user, **message}), flush=True)


async def connect(user: str | None, inboxes: str) -> Client:
    """Connect to NATS; if that fails, exit with the reason in one line."""
    reason = "no answer"

    async def on_error(error: Exception) -> None:
        nonlocal reason
        said = str(error) or type(error).__name__
        if reason == "no answer" or not isinstance(error, OSError):  # a server that refuses also hangs up
            reason = said
        if client.is_connected:
            print(f"nats: {said}", file=sys.stderr, flush=True)

    client, urls = Client(), os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                urls.split(","),
                user=user,
                password=os.environ.get("NATS_PASSWORD"),
                inbox_prefix=inboxes,
                error_cb=on_error,
                max_reconnect_attempts=-1,
            )
    except TimeoutError:
        sys.exit(f"no connection to NATS: {reason}")
    except (OSError, ValueError, nats.errors.Error) as error:
        sys.exit(f"no connection to NATS: {error}")
    return client


async def main() -> None:
    """Push until SIGINT or SIGTERM."""
    client = await connect(os.environ.get("NATS_USER", "monitor"), "_INBOX.monitor")

    async def rings(message: Msg) -> None:
        call = json.loads(message.data)
        fields = {key: call[key] for key in ("callId", "caller", "callType")}
        await push(call["callee"], {"what": "rings", **fields})

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
