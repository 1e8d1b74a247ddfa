"""Decide by a block list who may call whom: a policy service. Use it as a starting point for your own.

    NATS_URL=nats://127.0.0.1:4222 NATS_USER=policy NATS_PASSWORD=… python examples/policy.py blocked.json

``{"bob": ["alice"]}`` in the file says that bob blocks alice: alice cannot call him, and does not see him online where
``STATUS_VISIBILITY=contacts``. The file is read again when it changes. Run as many as you like: NATS asks one of them.

It needs only nats-py. Requests and answers are JSON: ``rpc.policy.may_call`` ``{caller, callee}`` and
``rpc.policy.may_see`` ``{asker, user}``, answered with ``{"allowed": true}`` or false, within 300 ms. Take as
long to refuse as to allow, because a blocked user can measure the time.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

CONNECT_SECONDS = 5


class BlockList:
    """Reads a block list from a JSON file: user → users that this user blocks."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = -1
        self._blocked: dict[str, list[str]] = {}

    def blocks(self, user: str, other: str) -> bool:
        """Return True if ``user`` blocks ``other``. Raises ``OSError`` or ``ValueError`` if the file is unreadable."""
        changed = self._file.stat().st_mtime_ns
        if changed != self._read_at:
            blocked = json.loads(self._file.read_text())
            if not isinstance(blocked, dict) or not all(isinstance(who, list) for who in blocked.values()):
                raise ValueError('not like {"bob": ["alice"]}')
            self._blocked, self._read_at = blocked, changed
        return other in self._blocked.get(user, ())


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


async def main(file: Path) -> None:
    """Answer until SIGINT or SIGTERM."""
    block_list = BlockList(file)
    try:
        block_list.blocks("", "")
    except (OSError, ValueError) as error:
        sys.exit(f"{file} cannot be used: {error}")
    client = await connect(os.environ.get("NATS_USER"), "_INBOX.policy")

    async def may_call(message: Msg) -> None:
        asked = json.loads(message.data)
        await answer(message, block_list.blocks(asked["callee"], asked["caller"]))

    async def may_see(message: Msg) -> None:
        asked = json.loads(message.data)
        await answer(message, block_list.blocks(asked["user"], asked["asker"]))

    async def answer(message: Msg, blocked: bool) -> None:
        await message.respond(json.dumps({"allowed": not blocked}).encode())

    await client.subscribe("rpc.policy.may_call", queue="policy", cb=may_call)
    await client.subscribe("rpc.policy.may_see", queue="policy", cb=may_see)
    await client.flush()
    print("ready", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await client.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answers who may call whom, by a block list.")
    parser.add_argument("file", type=Path, help='JSON like {"bob": ["alice"]}: bob blocks alice')
    asyncio.run(main(parser.parse_args().file))
