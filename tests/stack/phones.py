"""A client that polls, and pairs of phones, one of which polls, whose calls go through one door."""

import asyncio
import contextlib
import json

import aiohttp

from tests.e2e.test_faults import Pair
from tests.stack.stack import Stack
from tests.support.raw_client import RawClient

_SEPARATOR = "\x1e"
_POLL_SECONDS = 40.0
_AT_ONCE = 10
_WORDS = 3
_PATIENCE_SECONDS = 110.0
"""How long a phone tries to come back: nearly as long as its session is kept (``WINDOW_SECONDS``)."""
_SPEAK_SECONDS = 90.0


class PollingClient(RawClient):
    """The client without a library, over Engine.IO's long polling."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._address = ""
        self._sending = asyncio.Lock()

    async def open(self, url: str) -> None:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_POLL_SECONDS))
        self._connected = asyncio.get_running_loop().create_future()
        self._address = f"{url}/socket.io/?EIO=4&transport=polling"
        async with self._http.get(self._address) as answer:
            if answer.status != 200:
                raise ConnectionError(f"{self.name}: {answer.status}")
            text = await answer.text()
        self._address += f"&sid={json.loads(text[1:])['sid']}"
        self._reader = asyncio.create_task(self._read())

    async def send(self, frame: str | bytes) -> None:
        assert self._http is not None and isinstance(frame, str)
        try:
            async with self._sending, self._http.post(self._address, data=frame.encode()) as answer:
                if answer.status != 200:
                    self.closed.set()
        except (ConnectionError, TimeoutError, aiohttp.ClientError):
            self.closed.set()

    async def close(self) -> None:
        self.closed.set()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def _read(self) -> None:
        assert self._http is not None
        with contextlib.suppress(ConnectionError, TimeoutError, aiohttp.ClientError):
            while not self.closed.is_set():
                async with self._http.get(self._address) as answer:
                    if answer.status != 200:
                        break
                    for frame in (await answer.text()).split(_SEPARATOR):
                        if frame == "1":
                            self.closed.set()
                        else:
                            await self._take(frame)
        self.closed.set()


class Talk:
    """Pairs whose calls are up and who talk until told to stop: callers on a websocket, callees poll."""

    def __init__(self, stack: Stack, token: str) -> None:
        self._stack = stack
        self._token = token
        self._stop = asyncio.Event()
        self._traffic: list[asyncio.Task[None]] = []
        self.pairs: list[Pair] = []

    async def begin(self, count: int) -> None:
        """So many more pairs call each other and talk."""
        first = len(self.pairs)
        pairs = [
            Pair(self._stack, n, self._token, PollingClient, _PATIENCE_SECONDS)  # type: ignore[arg-type]  # what it needs of a cluster
            for n in range(first, first + count)
        ]
        self.pairs += pairs
        for start in range(0, count, _AT_ONCE):
            await asyncio.gather(*(_call(pair) for pair in pairs[start : start + _AT_ONCE]))
        self._traffic += [asyncio.create_task(pair.talk(self._stop)) for pair in pairs]

    async def everybody_spoke(self) -> None:
        """Wait until each side of each pair has been heard a few times more."""
        wanted = {by: count + _WORDS for pair in self.pairs for by, count in pair.sent.items()}
        async with asyncio.timeout(_SPEAK_SECONDS):
            while any(pair.sent[by] < wanted[by] for pair in self.pairs for by in pair.phones):
                for failed in (traffic for traffic in self._traffic if traffic.done()):
                    failed.result()
                await asyncio.sleep(0.05)

    async def hush(self) -> None:
        """Nobody says anything any more, and nobody has failed to say anything."""
        self._stop.set()
        await asyncio.gather(*self._traffic)

    async def finish(self, *, exactly: bool, resumed: bool = True) -> None:
        """All that was said was heard, each call is still up and ends once. ``resumed``: nobody has missed anything."""
        await self.everybody_spoke()
        await self.hush()
        await asyncio.gather(*(pair.check(exactly=exactly) for pair in self.pairs))
        if resumed:
            assert not any(phone.resumes[False] for pair in self.pairs for phone in pair.phones)
        await asyncio.gather(*(pair.end() for pair in self.pairs))
        await asyncio.gather(*(pair.stop() for pair in self.pairs))
        await self._stack.assert_quiet(30)


async def _call(pair: Pair) -> None:
    await pair.ring()
    await pair.accept()
