"""Sockets that send as fast as they can beside calls that go on. ``make flood`` is the long one, for two minutes."""

import asyncio
import json
import os
import sys
import time
from typing import Any

import pytest

from tests.support.limit_metrics import limits_hit
from tests.support.phone import Phone
from tests.support.service_process import REPOSITORY
from tests.support.shared_clusters import Clusters

LONG = bool(os.environ.get("FLOOD"))
HOSTILE, CALLS, SECONDS = (200, 20, 120.0) if LONG else (40, 4, 8.0)
QUIET_SECONDS = 10.0 if LONG else 3.0
EVERY_SECONDS = 0.5
GROWTH_MAX = 256 * 1024 * 1024
"""Bytes by which a gateway may grow: the outbox has 32 MiB, and each socket frames of up to 128 KiB on their way."""
STILL_GROWS = 1.25
"""How many times what it was in the first half a gateway may have in the second."""
P99_MAX = 3.0
"""Seconds; on a machine whose processors are all taken by those who flood."""

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(SECONDS + QUIET_SECONDS + 90),
    pytest.mark.alone,
]


async def test_a_flood_harms_only_those_who_make_it(clusters: Clusters) -> None:
    cluster = await clusters.get("2x2x1", RATE_LIMIT="on", CANDIDATES_PER_CALL="100000")
    urls = [gateway.url for gateway in cluster.gateways]
    phones = [Phone(f"calm-{n}", urls[n % 2 :] + urls[: n % 2]) for n in range(2 * CALLS)]
    await asyncio.gather(*(phone.start() for phone in phones))
    try:
        pairs = list(zip(phones[::2], phones[1::2], strict=True))
        calls = await asyncio.gather(*(_talk(*pair) for pair in pairs))
        sent: dict[str, list[float]] = {call: [] for call in calls}
        quiet = await _chat(pairs, calls, sent, time.monotonic() + QUIET_SECONDS)
        before = [gateway.memory() for gateway in cluster.gateways]
        until = time.monotonic() + SECONDS
        flooders = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.flood_client", str(HOSTILE), str(SECONDS), *urls),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        halves = [list(before), list(before)]
        watch = asyncio.create_task(_watch(cluster.gateways, halves, until - SECONDS / 2))
        try:
            loud = await _chat(pairs, calls, sent, until)
            output, _ = await asyncio.wait_for(flooders.communicate(), 30)
        finally:
            watch.cancel()
            peak = [max(sizes) for sizes in zip(*halves, strict=True)]
            if flooders.returncode is None:
                flooders.kill()
                await flooders.wait()
        for (_, callee), call in zip(pairs, calls, strict=True):
            await callee.until("ice:candidate", len(sent[call]), timeout=10)
            assert callee.numbers == list(range(len(sent[call])))
        for (caller, _), call in zip(pairs, calls, strict=True):
            await caller.ok("call:end", {"callId": call})
        done = json.loads(output)
        figures = {
            "quiet p50, p99 ms": _percentiles(quiet),
            "flooded p50, p99 ms": _percentiles(loud),
            "gateways MiB before": [size >> 20 for size in before],
            "gateways MiB at most, by halves": [[size >> 20 for size in half] for half in halves],
            "hostile": done,
            "limits hit": dict(limits_hit(cluster.folder)),
        }
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
        assert all(not phone.resumes and not phone.refused for phone in phones), (
            "one that behaves was disconnected"
        )
        assert not [e for phone in phones for e in phone.events["error"]]
        assert all(more - size < GROWTH_MAX for size, more in zip(before, peak, strict=True)), (before, peak)
        if LONG:
            assert all(late <= STILL_GROWS * early for early, late in zip(*halves, strict=True)), halves
        assert done["sent"] > 50 * HOSTILE and done["sent away"] >= (HOSTILE if LONG else 1), done
        assert _percentiles(loud)[1] < P99_MAX * 1000, figures
    finally:
        await asyncio.gather(*(phone.stop() for phone in phones))
    await cluster.assert_quiet(40)
    cluster.check_logs()


async def _talk(caller: Phone, callee: Phone) -> str:
    call = (await caller.ok("call:initiate", {"to": callee.user, "callType": "audio"}))["callId"]
    await callee.until("call:incoming")
    await callee.ok("call:accept", {"callId": call})
    return str(call)


async def _chat(
    pairs: list[tuple[Phone, Phone]], calls: list[str], sent: dict[str, list[float]], until: float
) -> list[float]:
    """Send a candidate in each call every :data:`EVERY_SECONDS`; seconds that each took."""
    first = {call: len(times) for call, times in sent.items()}

    async def one(a: Phone, b: Phone, call: str) -> None:
        while time.monotonic() < until:
            times = sent[call]
            candidate = {"candidate": "c" * 100, "n": len(times)}
            times.append(time.monotonic())
            body: dict[str, Any] = {"candidate": candidate, "from": a.user, "to": b.user, "callId": call}
            await a._client.emit("ice:candidate", body)
            await asyncio.sleep(EVERY_SECONDS)
        await b.until("ice:candidate", len(sent[call]), timeout=20)

    await asyncio.gather(*(one(a, b, call) for (a, b), call in zip(pairs, calls, strict=True)))
    return [
        heard - begun
        for (_, b), call in zip(pairs, calls, strict=True)
        for heard, begun in zip(b.at["ice:candidate"][first[call] :], sent[call][first[call] :], strict=True)
    ]


async def _watch(gateways: list[Any], halves: list[list[int]], half: float) -> None:
    """Note the most memory that each gateway has, before ``half`` and after."""
    while True:
        peak = halves[time.monotonic() > half]
        peak[:] = [max(size, gateway.memory()) for size, gateway in zip(peak, gateways, strict=True)]
        await asyncio.sleep(0.2)


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    times = sorted(seconds)
    return tuple(round(times[int(len(times) * share)] * 1000, 1) for share in (0.5, 0.99))  # type: ignore[return-value]
