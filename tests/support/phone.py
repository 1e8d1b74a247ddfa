"""A client as a good application writes one: it comes back by itself, resumes, and sends unanswered things again."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import aiohttp

from tests.support.inbox import Inbox
from tests.support.raw_client import RawClient

ANSWER_SECONDS = 12.0
CONNECT_SECONDS = 5.0
GIVE_UP_SECONDS = 60.0
"""How long it tries to come back, or to be answered, unless told otherwise."""


class _Box(Inbox):
    """Hands everything on and keeps nothing."""

    def __init__(self, phone: "Phone") -> None:
        super().__init__(phone.user)
        self._phone = phone

    def put(self, event: str, data: Any) -> None:
        self._phone.hear(event, data)


class Phone:
    """A joined user. ``urls``: gateways to go to, the first one first."""

    def __init__(
        self,
        user: str,
        urls: list[str],
        *,
        jitter: float = 0.3,
        silence: float | None = None,
        patience: float = GIVE_UP_SECONDS,
        socket: Callable[[str], RawClient] = RawClient,
    ) -> None:
        """``jitter``: how long it waits at most, in seconds, before it connects again. ``silence``: how long it
        hears nothing, not even a ping, before it takes its socket for dead; ``None``: it never does. ``patience``: how
        long, in seconds, it tries to come back, or to be answered. ``socket``: makes one with the user's name.
        """
        self.user = user
        self._jitter = jitter
        self._silence = silence
        self._patience = patience
        self._urls = urls
        self._next = 0
        self._socket = socket
        self._client = socket(user)
        self._online = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._joined: dict[str, Any] = {}
        self._last_seq = 0
        self._changed = asyncio.Event()
        self.events: dict[str, list[Any]] = defaultdict(list)
        """Event → payloads, in the order they came, over all sockets."""
        self.at: dict[str, list[float]] = defaultdict(list)
        """Event → when they came (monotonic seconds)."""
        self.resumes: Counter[bool] = Counter()
        """Whether it came back with everything, how often."""
        self.again = 0
        """Requests sent once more because no answer had come."""
        self.refused: Counter[str] = Counter()

    # --- life ---

    async def start(self) -> None:
        """Connect and join, and stay joined."""
        await self._connect()
        self._task = asyncio.create_task(self._stay())

    async def stop(self) -> None:
        """Leave."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.disconnect()

    async def _stay(self) -> None:
        while True:
            await self._over()
            self._online.clear()
            await self._client.close()
            async with asyncio.timeout(self._patience):
                await asyncio.sleep(random.uniform(0.02, self._jitter))
                while not self._online.is_set():
                    self._next += 1
                    try:
                        await self._connect()
                    except (aiohttp.ClientError, TimeoutError, OSError, AssertionError):
                        await self._client.close()
                        await asyncio.sleep(random.uniform(0.1, 0.5))

    async def _over(self) -> None:
        """Wait until the socket is closed, or silent for so long that it has to be."""
        client, silence = self._client, self._silence
        while not client.closed.is_set():
            wait = None if silence is None else client.heard_at + silence - time.monotonic()
            if wait is not None and wait <= 0:
                await client.tear()  # a close frame would wait for an answer that does not come
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.closed.wait()
                return
            try:
                async with asyncio.timeout(wait):
                    await client.closed.wait()
            except TimeoutError:
                pass

    async def _connect(self) -> None:
        self._client = self._socket(self.user)
        self._client.inbox = _Box(self)
        resume = {}
        if self._joined:
            token = self._joined["resume"]["token"]
            resume = {
                "resume": {
                    "sessionId": self._joined["sessionId"],
                    "token": token,
                    "lastSeq": self._last_seq,
                }
            }
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._client.connect(self._urls[self._next % len(self._urls)])
        ack = await self._client.ask("user:join", {"userId": self.user, **resume}, timeout=ANSWER_SECONDS)
        if not ack["ok"]:
            raise OSError(ack["error"]["code"])
        if self._joined:
            self.resumes[ack["resumed"]] += 1
        self._joined = ack
        self._online.set()

    # --- talking ---

    async def ok(self, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send until it is answered well: again after a resume if no answer came, and after a retryable refusal."""
        async with asyncio.timeout(self._patience):
            while True:
                await self._online.wait()
                client = self._client
                try:
                    ack: dict[str, Any] = await client.ask(event, payload, timeout=ANSWER_SECONDS)
                except ConnectionError:
                    self.again += 1
                    await asyncio.sleep(0.02)
                    continue
                if ack["ok"]:
                    return ack
                self.refused[ack["error"]["code"]] += 1
                assert ack["error"]["retryable"], f"{self.user}: {event} answered {ack}"
                await asyncio.sleep(0.2)

    def hear(self, event: str, data: Any) -> None:
        """Something has come."""
        if isinstance(data, dict):
            self._last_seq = max(self._last_seq, data.get("seq", 0))
        self.events[event].append(data)
        self.at[event].append(time.monotonic())
        self._changed.set()

    async def until(self, event: str, count: int = 1, *, timeout: float = GIVE_UP_SECONDS) -> Any:
        """The last of that event, once there are ``count``."""
        try:
            async with asyncio.timeout(timeout):
                while len(self.events[event]) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.user} got {len(self.events[event])} of {count} {event}; resumed {dict(self.resumes)}"
            ) from None
        return self.events[event][-1]

    @property
    def numbers(self) -> list[int]:
        """``n`` of the candidates that came."""
        return [data["candidate"]["n"] for data in self.events["ice:candidate"]]

    @property
    def silence(self) -> float:
        """The longest time without a candidate between two, in seconds."""
        times = self.at["ice:candidate"]
        return max((b - a for a, b in pairwise(times)), default=0.0)
