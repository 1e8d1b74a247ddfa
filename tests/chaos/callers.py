"""Pairs of clients that call each other again and again, and record what they do and see."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.chaos.checker import RELAY, TERMINAL
from tests.chaos.history import Record
from tests.support.phone import ANSWER_SECONDS, Phone

SILENCE_SECONDS = 8.0
"""Pings come every two seconds."""
RING_SECONDS = 10.0
PATIENCE_SECONDS = 45.0
"""From an end that was asked for until both have heard of it: a resume window, a lease and some retries."""
ASK_SECONDS = 30.0
EVERY_SECONDS = 0.05


class Caller(Phone):
    """A phone that records."""

    def __init__(self, user: str, urls: list[str], record: Callable[[Record], None]) -> None:
        super().__init__(user, urls, silence=SILENCE_SECONDS)
        self._record = record
        self._came = asyncio.Event()
        self._session = ""
        self.ended: set[str] = set()
        self.heard: dict[str, set[str]] = {}
        """Call → events."""

    def note(self, what: str, **more: Any) -> None:
        """Record something that happens now."""
        self._record(Record(round(time.monotonic(), 4), self.user, what, **more))

    def hear(self, event: str, data: Any) -> None:
        super().hear(event, data)
        if not isinstance(data, dict):
            return
        call = data.get("callId") or ""
        candidate = data.get("candidate")
        n = candidate["n"] if isinstance(candidate, dict) else None
        if event == "user:joined":
            known, self._session = bool(self._joined), data["sessionId"]
            self.note("joined", session=data["sessionId"], resumed=data["resumed"] if known else None)
            return
        self.note(
            "heard",
            event=event,
            call=call,
            n=n,
            by=data.get("by") or "",
            reason=data.get("reason") or "",
            seq=data.get("seq") or 0,
            session=self._session,
            code=data.get("code") or "",
        )
        self.heard.setdefault(call, set()).add(event)
        if event in TERMINAL:
            self.ended.add(call)
        self._came.set()

    async def request(self, event: str, payload: dict[str, Any], n: int | None = None) -> dict[str, Any]:
        """Send until there is an answer that is not to be tried again, or for :data:`ASK_SECONDS`."""
        until = time.monotonic() + ASK_SECONDS
        call = payload.get("callId", "")
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self._online.wait()
            if not self._online.is_set():
                break
            self.note("asked", event=event, call=call, n=n)
            try:
                ack: dict[str, Any] = await self._client.ask(event, payload, timeout=ANSWER_SECONDS)
            except (ConnectionError, AssertionError, aiohttp.ClientError) as error:
                self.note("answered", event=event, call=call, n=n, code=type(error).__name__, ok=False)
                await asyncio.sleep(0.05)
                continue
            ok = None if ack.get("queued") else bool(ack["ok"])
            code = "" if ack["ok"] else ack["error"]["code"]
            self.note("answered", event=event, call=ack.get("callId") or call, n=n, ok=ok, code=code)
            if ack["ok"] or not ack["error"]["retryable"]:
                return ack
            await asyncio.sleep(0.2)
        return {"ok": False, "error": {"code": "gave_up", "retryable": True}}

    async def hears(self, call: str, *events: str, within: float) -> bool:
        """Whether it has heard one of ``events`` of a call, in so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self.heard.get(call, set()) & set(events):
                    self._came.clear()
                    await self._came.wait()
        return bool(self.heard.get(call, set()) & set(events))

    def tear(self) -> None:
        """Break the transport, if there is one."""
        if self._online.is_set():
            with contextlib.suppress(AttributeError, AssertionError):
                self._client._ws._response.connection.transport.abort()  # type: ignore[union-attr]

    async def see_itself(self) -> None:
        """Record whether it is shown in a call."""
        ack = await self.request("user:status", {"userId": self.user})
        if ack["ok"]:
            self.note("status", in_call=ack["isInCall"])


class Pair:
    """Two callers on different gateways; either may call the other, or both at once."""

    def __init__(self, number: int, token: str, urls: list[str], seed: int, record: Callable[[Record], None]):
        first = number % len(urls)
        urls = urls[first:] + urls[:first]
        self._chance = random.Random(f"{seed} {number}")
        self.callers = (
            Caller(f"a{number}-{token}", urls, record),
            Caller(f"b{number}-{token}", urls[1:] + urls[:1], record),
        )
        self._n = 0
        self.calls = 0

    async def go_on(self, stop: asyncio.Event) -> None:
        """Call and talk until ``stop``."""
        await asyncio.gather(*(caller.start() for caller in self.callers))
        while not stop.is_set():
            await self._round()
            await asyncio.sleep(self._chance.uniform(0.05, 0.4))

    async def leave(self) -> None:
        """See that all is over, and leave."""
        for caller in self.callers:
            await caller.see_itself()
        await asyncio.gather(*(caller.stop() for caller in self.callers))

    async def _round(self) -> None:
        a, b = self._chance.sample(self.callers, 2)
        if self._chance.random() < 0.15:
            acks = await asyncio.gather(self._initiate(a, b), self._initiate(b, a))
            call = next((ack["callId"] for ack in acks if ack["ok"]), "")
        else:
            ack = await self._initiate(a, b)
            call = ack.get("callId", "") if ack["ok"] else ""
        if not call:
            # One that was placed without an answer, or that a lost session has left behind.
            call = next((known for known in a.heard if known and known not in a.ended), "")
            if call:
                await a.request("call:end", {"callId": call})
            await asyncio.sleep(0.3)
            return
        self.calls += 1
        what = self._chance.choices(("talk", "reject", "cancel", "ring out"), (75, 10, 10, 5))[0]
        if not await b.hears(
            call, "call:incoming", "call:initiated", "call:accepted", *TERMINAL, within=RING_SECONDS
        ):
            what = "cancel"
        if what == "reject":
            await b.request("call:reject", {"callId": call, "from": b.user})
        elif what == "cancel":
            await a.request("call:end", {"callId": call})
        elif what == "talk":
            if "call:accepted" not in b.heard.get(call, ()):
                await b.request("call:accept", {"callId": call, "from": b.user})
            await self._talk(a, b, call)
            by = self._chance.choice((a, b))
            await by.request("call:end", {"callId": call})
        if what in ("reject", "ring out") and "call:accepted" in a.heard.get(call, ()):
            await a.request("call:end", {"callId": call})  # a glare accepted it at once
        for caller in (a, b):
            if caller.heard.get(call):
                await caller.hears(call, *TERMINAL, within=PATIENCE_SECONDS)

    async def _initiate(self, by: Caller, to: Caller) -> dict[str, Any]:
        return await by.request("call:initiate", {"to": to.user, "callType": "audio"})

    async def _talk(self, a: Caller, b: Caller, call: str) -> None:
        until = time.monotonic() + self._chance.uniform(0.5, 6.0)
        torn = self._chance.choice((None, None, a, b))

        async def speak(by: Caller, to: Caller) -> None:
            while time.monotonic() < until and call not in by.ended:
                self._n += 1
                n = self._n
                relay = {"candidate": {"n": n}, "from": by.user, "to": to.user, "callId": call}
                ack = await by.request(RELAY, relay, n)
                if not ack["ok"] and ack["error"]["code"] != "gave_up":
                    return
                await asyncio.sleep(EVERY_SECONDS)

        async def tear() -> None:
            if torn is not None:
                await asyncio.sleep(self._chance.uniform(0.2, 2.0))
                torn.tear()

        await asyncio.gather(speak(a, b), speak(b, a), tear())
