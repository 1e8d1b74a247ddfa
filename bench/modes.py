"""Define the modes: what the clients do, and what is measured meanwhile.

Each returns its figures by name; those that end in ``_us``, ``_ms``, ``_kib`` and so on are in that unit.
``cpu_us.ROLE`` is the share of one role (``gateway``, ``nats``, …) in ``cpu_us``.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from bench import measure
from bench.client import ServerError, Socket, connect_all, frame, join_all, payload_of
from bench.costs import Cost
from bench.measure import Figures
from bench.pairs import candidate_of, make_calls, make_pairs
from bench.payloads import MARK, description, number_of

if TYPE_CHECKING:
    from bench.load import Job

CANDIDATES_PER_CALL = 16
SETTLE_SECONDS = 3.0
DRAIN_SECONDS = 5.0
RETRY_SECONDS = 0.02
REFUSED_MAX = 0.01
"""Share of calls that may be refused (a caller still reserved, briefly) before a run counts as failed."""


# --- relay: as many as go through -----------------------------------------------------------------------------


async def relay(job: "Job") -> Figures:
    """Keep ``window`` candidates in flight on each side of each pair: one that arrives sends another back."""
    pairs = await make_pairs(job.urls, range(job.pairs))
    calls = await make_calls(pairs)
    arrived = 0
    running = True

    def on_event(socket: Socket, back: bytes, name: bytes, data: bytes) -> None:
        nonlocal arrived
        if name == b"ice:candidate":
            arrived += 1
            if running:
                socket.send(back)
        elif name == b"error":
            raise ServerError(data.decode())

    first = []
    for (caller, callee), call in zip(pairs, calls, strict=True):
        for one, other in ((caller, callee), (callee, caller)):
            data = candidate_of(one, other, call)
            one.on_event = partial(on_event, one, data)
            first.append((one, data))
    for one, data in first:
        for _ in range(job.window):
            one.send(data)
    await asyncio.sleep(job.warm_seconds)
    before, cost = arrived, Cost(job.roots)
    await asyncio.sleep(job.seconds)
    figures = cost.per(arrived - before)
    running = False
    sent = arrived + len(first) * job.window  # what is on its way arrives yet, and sends nothing
    await _none_lost(pairs, lambda: arrived >= sent, lambda: sent - arrived)
    return figures


async def _none_lost(
    pairs: list[tuple[Socket, Socket]], done: Callable[[], bool], missing: Callable[[], int]
) -> None:
    """Wait for the relays in flight. Raises :class:`ServerError` if some do not arrive."""
    until = time.monotonic() + DRAIN_SECONDS
    while not done() and time.monotonic() < until:
        await asyncio.sleep(0.02)
    if not done() or any(socket.closed for pair in pairs for socket in pair):
        raise ServerError(f"{missing()} messages were lost, or a connection")


# --- latency: a few, steadily ---------------------------------------------------------------------------------


async def latency(job: "Job") -> Figures:
    """Measure round-trip times of ``rate`` relays a second, half of them answers, at random moments."""
    pairs = await make_pairs(job.urls, range(job.pairs))
    calls = await make_calls(pairs)
    sent: dict[int, float] = {}
    took: list[float] = []
    measuring = False
    clock = time.perf_counter

    def on_caller(name: bytes, data: bytes) -> None:
        if name == b"ice:candidate":
            begin = sent.pop(number_of(data))
            if measuring:
                took.append(clock() - begin)
        elif name == b"error":
            raise ServerError(data.decode())

    def on_callee(socket: Socket, head: bytes, tail: bytes, name: bytes, data: bytes) -> None:
        if name == b"ice:candidate":
            socket.send(b"%b%06d%b" % (head, number_of(data), tail))

    callers = []
    for (caller, callee), call in zip(pairs, calls, strict=True):
        caller.on_event = on_caller
        callee.on_event = partial(on_callee, callee, *_split(candidate_of(callee, caller, call)))
        callers.append((caller, *_split(candidate_of(caller, callee, call))))

    moments = random.Random(1)
    number = 0
    gap = 2 / job.rate

    async def send_until(end: float) -> None:
        nonlocal number
        due = clock()
        while due < end:
            while due <= clock():
                socket, head, tail = callers[number % len(callers)]
                sent[number] = clock()
                socket.send(b"%b%06d%b" % (head, number, tail))
                number = (number + 1) % 1_000_000
                due += moments.expovariate(1 / gap)
            await asyncio.sleep(due - clock())

    await send_until(clock() + job.warm_seconds)
    measuring, before, cost = True, number, Cost(job.roots)
    await send_until(clock() + job.seconds)
    figures = cost.per(2 * (number - before))
    await _none_lost(pairs, lambda: not sent, lambda: len(sent))
    return figures | {"p50_ms": _quantile(took, 0.5) * 1e3, "p99_ms": _quantile(took, 0.99) * 1e3}


def _split(data: bytes) -> tuple[bytes, bytes]:
    at = data.index(MARK) + len(MARK)
    return data[:at], data[at + 6 :]


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


# --- calls ----------------------------------------------------------------------------------------------------


class _Caller:
    """Makes one call after the other in one pair."""

    def __init__(self, caller: Socket, callee: Socket, took: list[float], whole: list[float]) -> None:
        self._caller = caller
        self._callee = callee
        self._took = took
        self._whole = whole
        self._began = 0.0
        self._call = ""
        self._candidates = 0
        self._ended = 0
        self.stopping = False
        self.done = asyncio.get_running_loop().create_future()
        self.refused: list[str] = []
        self._initiate = frame("call:initiate", {"to": callee.user, "callType": "video"})
        caller.on_event = self._on_caller
        callee.on_event = self._on_callee

    def begin(self) -> None:
        """Make the next call, or none once the time has passed."""
        if self.stopping:
            if not self.done.done():
                self.done.set_result(None)
            return
        self._candidates = self._ended = 0
        self._began = time.perf_counter()
        self._caller.send(self._initiate)

    def _relay(self, one: Socket, other: Socket, event: str, field: str, value: object) -> None:
        one.send(frame(event, {field: value, "from": one.user, "to": other.user, "callId": self._call}))

    def _on_caller(self, name: bytes, data: bytes) -> None:
        if name == b"ice:candidate":
            self._oncandidate_of()
        elif name == b"call:accepted":
            self._relay(self._caller, self._callee, "call:offer", "offer", _OFFER)
        elif name == b"call:answer":
            for one, other in ((self._caller, self._callee), (self._callee, self._caller)):
                data = candidate_of(one, other, self._call)
                for _ in range(CANDIDATES_PER_CALL // 2):
                    one.send(data)
        elif name == b"call:ended":
            self._on_ended()
        elif name == b"error":
            self._on_error(data)

    def _on_callee(self, name: bytes, data: bytes) -> None:
        if name == b"ice:candidate":
            self._oncandidate_of()
        elif name == b"call:incoming":
            self._took.append(time.perf_counter() - self._began)
            self._call = payload_of(data)["callId"]
            self._callee.send(frame("call:accept", {"callId": self._call}))
        elif name == b"call:offer":
            self._relay(self._callee, self._caller, "call:answer", "answer", _ANSWER)
        elif name == b"call:ended":
            self._on_ended()
        elif name == b"error":
            self._on_error(data)

    def _oncandidate_of(self) -> None:
        self._candidates += 1
        if self._candidates == CANDIDATES_PER_CALL:
            self._caller.send(frame("call:end", {"callId": self._call}))

    def _on_ended(self) -> None:
        self._ended += 1
        if self._ended == 2:
            self._whole.append(time.perf_counter() - self._began)
            self.begin()

    def _on_error(self, data: bytes) -> None:
        refused = payload_of(data)
        if refused["event"] != "call:initiate":
            raise ServerError(json.dumps(refused))
        self.refused.append(refused["code"])
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self.begin)


_OFFER, _ANSWER = description("offer"), description("answer")


async def calls(job: "Job") -> Figures:
    """Make whole calls, one after the other in each of ten pairs: ring, accept, offer, answer, 16 candidates, end."""
    pairs = await make_pairs(job.urls, range(max(1, job.pairs // 2)))
    took: list[float] = []
    whole: list[float] = []
    callers = [_Caller(*pair, took, whole) for pair in pairs]
    for each in callers:
        each.begin()
    await asyncio.sleep(job.warm_seconds)
    took.clear()
    whole.clear()
    refused = sum(len(each.refused) for each in callers)
    cost = Cost(job.roots)
    await asyncio.sleep(job.seconds)
    count, rung = len(whole), list(took)
    figures = cost.per(count)
    refused = sum(len(each.refused) for each in callers) - refused
    if refused > REFUSED_MAX * count:
        codes = sorted({code for each in callers for code in each.refused})
        raise ServerError(f"{refused} of {count} calls were refused: {codes}")
    for each in callers:
        each.stopping = True
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await asyncio.gather(*(each.done for each in callers))
    except TimeoutError:
        raise ServerError("a call does not come to its end") from None
    return figures | {
        "refused": float(refused),
        "setup_p50_ms": _quantile(rung, 0.5) * 1e3,
        "setup_p99_ms": _quantile(rung, 0.99) * 1e3,
        "whole_p50_ms": _quantile(whole, 0.5) * 1e3,
    }


# --- sockets --------------------------------------------------------------------------------------------------


async def idle(job: "Job") -> Figures:
    """Measure joined sockets that only answer pings: memory of each, and CPU of a thousand."""
    await _some_users(job, "warm", 100)
    await asyncio.sleep(SETTLE_SECONDS)
    before = measure.pss_bytes(job.roots)
    sockets = await _some_users(job, "idle", job.sockets)
    await asyncio.sleep(SETTLE_SECONDS)
    cost = Cost(job.roots)
    await asyncio.sleep(job.seconds)
    busy = cost.per(1)
    after = measure.pss_bytes(job.roots)
    if any(socket.closed for socket in sockets):
        raise ServerError("a connection was closed")
    count = len(sockets)
    return {
        "pss_kib": (sum(after.values()) - sum(before.values())) / count / 1024,
        **{f"pss_kib.{role}": (after[role] - before[role]) / count / 1024 for role in before},
        "base_mib": sum(before.values()) / 2**20,
        "cpu_percent_1000": busy["cores"] * 100 / count * 1000,
        "cores.others": busy["cores.others"],
        "cores.stolen": busy["cores.stolen"],
    }


async def joins(job: "Job") -> Figures:
    """Measure ``user:join`` on connected sockets, 64 under way; and the cost to connect them."""
    await _some_users(job, "warm", 200)
    sockets = [Socket(f"user{i}") for i in range(job.joins)]
    cost = Cost(job.roots)
    await connect_all(sockets, job.urls)
    connected = cost.per(job.joins)
    cost = Cost(job.roots)
    await join_all(sockets)
    figures = cost.per(job.joins)
    return figures | {
        "connect_us": connected["cpu_us"],
        "both_us": figures["cpu_us"] + connected["cpu_us"],
    }


async def _some_users(job: "Job", name: str, count: int) -> list[Socket]:
    sockets = [Socket(f"{name}{i}") for i in range(count)]
    await connect_all(sockets, job.urls)
    await join_all(sockets)
    return sockets


MODES: dict[str, Callable[["Job"], Coroutine[Any, Any, Figures]]] = {
    "relay": relay,
    "latency": latency,
    "calls": calls,
    "idle": idle,
    "joins": joins,
}
