"""Clients in a process of their own, so that what is measured is not the loop of whoever measures.

``python -m tests.support.mass_join``: reads commands (JSON, a line each) and answers each with a line of JSON.
``crowd``: that many :class:`Phone` join; ``back``: how many have come back; ``leave``: all leave; ``joins``: somebody
joins again and again for a while, on a fresh connection and on one that is there.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from tests.support.phone import Phone
from tests.support.raw_client import RawClient

AT_ONCE = 50
BETWEEN_SECONDS = 0.1


class Herd:
    """What the process does. ``phones``: who has joined."""

    def __init__(self) -> None:
        self.phones: list[Phone] = []

    async def crowd(self, *, name: str, count: int, urls: list[str], jitter: float) -> None:
        self.phones = [Phone(f"{name}{n}", urls, jitter=jitter) for n in range(count)]
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*(phone.start() for phone in self.phones[first : first + AT_ONCE]))

    async def back(self) -> dict[str, int]:
        return {
            "back": sum(phone.resumes.total() for phone in self.phones),
            "resumed": sum(phone.resumes[True] for phone in self.phones),
        }

    async def leave(self) -> None:
        for first in range(0, len(self.phones), 500):
            await asyncio.gather(*(phone.stop() for phone in self.phones[first : first + 500]))

    async def joins(self, *, name: str, url: str, seconds: float) -> dict[str, list[float]]:
        """Seconds that each join took: ``fresh``, from connecting on; ``there``, on a socket that is joined."""
        times: dict[str, list[float]] = {"fresh": [], "there": []}
        there = RawClient(f"{name}-there")
        await there.connect(url)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            user, fresh = f"{name}-{len(times['fresh'])}", RawClient(name)
            begun = time.monotonic()
            await fresh.connect(url)
            assert (await fresh.ask("user:join", {"userId": user}))["ok"]
            times["fresh"].append(time.monotonic() - begun)
            begun = time.monotonic()
            assert (await there.ask("user:join", {"userId": f"{name}-there"}))["ok"]
            times["there"].append(time.monotonic() - begun)
            await fresh.disconnect()
            await asyncio.sleep(BETWEEN_SECONDS)
        await there.disconnect()
        return times


class HerdProcess:
    """The other side of it. ``nice``: by how much it leaves the CPU to others."""

    def __init__(self, nice: int = 0) -> None:
        self._nice = nice
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "HerdProcess":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.mass_join", str(self._nice),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1024 * 1024,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def do(self, what: str, timeout: float, **how: Any) -> Any:
        """Have something done; what is answered. Raises ``TimeoutError``."""
        assert (
            self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        )
        self._process.stdin.write(json.dumps({"do": what, **how}).encode() + b"\n")
        async with asyncio.timeout(timeout):
            line = await self._process.stdout.readline()
        assert line, f"{what}: the herd has died"
        return json.loads(line)


async def _main() -> None:
    os.nice(int(sys.argv[1]))
    herd, loop = Herd(), asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        done = await getattr(herd, command.pop("do"))(**command)
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
