"""examples/call_bot.py, whose media is aiortc's, in calls with Chromium."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.browser.people import People, Person
from tests.support.service_process import REPOSITORY, clean_environment

SECONDS = 20.0


class Bot:
    """The example as a process, and what it says."""

    def __init__(self, url: str, *options: str) -> None:
        self.name = f"robot-{secrets.token_hex(2)}"
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(REPOSITORY / "examples" / "call_bot.py"),
                "--url",
                url,
                "--name",
                self.name,
                *options,
            ],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def says(self, wanted: str) -> dict[str, Any]:
        """The next line that has ``wanted`` in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while True:
                line = await asyncio.to_thread(self.process.stdout.readline)
                assert line, f"it ended: {self.process.wait(SECONDS)}"
                told: dict[str, Any] = json.loads(line)
                if wanted in told:
                    return told

    async def sees(self) -> None:
        """Pictures come that are not those of before."""
        before = (await self.says("pictures"))["pictures"]
        async with asyncio.timeout(SECONDS):
            while (await self.says("pictures"))["pictures"] <= before + 5:
                pass

    async def sees_and_hears(self) -> None:
        await self.sees()
        await self.hears(0.02)

    async def hears(self, least: float, most: float = 1.0) -> None:
        """Sound of some loudness."""
        async with asyncio.timeout(SECONDS):
            while not least <= (await self.says("loudness"))["loudness"] <= most:
                pass


@asynccontextmanager
async def _bot(url: str, *options: str) -> AsyncIterator[Bot]:
    bot = Bot(url, *options)
    try:
        await bot.says("joined")
        yield bot
        bot.process.terminate()
        assert await asyncio.to_thread(bot.process.wait, SECONDS) == 0
    finally:
        bot.process.kill()
        bot.process.communicate(timeout=SECONDS)


async def _see_each_other(alice: Person, bot: Bot) -> None:
    await alice.connected()
    await asyncio.gather(alice.sees(), alice.hears(), bot.sees_and_hears())


async def test_it_answers_and_stays_through_a_reload(people: People) -> None:
    alice = await people.person("alice")
    async with _bot(people.urls[1]) as bot:
        await alice.add_name(bot.name)
        await alice.dial_name(bot.name)
        await _see_each_other(alice, bot)
        await alice.click("Mute microphone")
        await bot.hears(0, 0.001)
        await alice.click("Unmute microphone")
        await bot.hears(0.02)
        await alice.page.reload()
        await _see_each_other(alice, bot)
        await alice.click("Hang up")
        assert await bot.says("ended") == {"ended": "hangup", "by": alice.name}


async def test_it_calls(people: People) -> None:
    alice = await people.person("alice", gateway=1)
    async with _bot(people.urls[0], "--call", alice.name) as bot:
        await alice.click("Accept")
        await _see_each_other(alice, bot)
    await alice.ended(f"{bot.name} hung up")
