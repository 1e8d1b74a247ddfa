"""One run: a system of real processes, pairs that call each other, the faults of a plan, and what the checker says."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.chaos.callers import Pair
from tests.chaos.checker import check
from tests.chaos.history import Record, save
from tests.chaos.plan import Fault, plan
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy

CALM_SECONDS = 60.0
"""After the last fault: time for calls under way to come to their ends."""
QUIET_SECONDS = 60.0
SUPERVISE_SECONDS = 0.5
SETTINGS = {
    "RESUME_WINDOW_SECONDS": "15",
    "SWEEP_SECONDS": "3",
    "PING_INTERVAL_SECONDS": "2",
    "PING_TIMEOUT_SECONDS": "3",
}


class Outcome(NamedTuple):
    """What came of a run. ``wrong``: broken promises."""

    faults: list[Fault]
    calls: int
    relays: int
    resumes: Counter[bool]
    wrong: list[str]

    def told(self) -> str:
        """In a line."""
        kinds = Counter(fault.kind for fault in self.faults)
        return (
            f"{len(self.faults)} faults ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}), "
            f"{self.calls} calls, {self.relays} relays acknowledged, "
            f"{self.resumes[True]} resumes with everything, {self.resumes[False]} without, {len(self.wrong)} wrong"
        )


class _System(Cluster):
    """A cluster whose services reach NATS, and whose clients reach gateways, through proxies."""

    def __init__(self, folder: Path, nats_nodes: int) -> None:
        super().__init__(
            folder, gateways=2, callcores=2, presences=2, nats_nodes=nats_nodes, ring_seconds=12, **SETTINGS
        )
        self.to_nats: dict[str, list[Proxy]] = {}
        self.to_gateway: dict[str, Proxy] = {}

    async def nats_url_of(self, service: str) -> str:
        proxies = self.to_nats[service] = [Proxy(server.port) for server in self.nats]
        for proxy in proxies:
            await proxy.start()
        return ",".join(proxy.url.replace("http:", "nats:") for proxy in proxies)

    async def open_to_clients(self) -> list[str]:
        """Where clients find the gateways."""
        for gateway in self.gateways:
            proxy = self.to_gateway[gateway.name] = Proxy(gateway.port)
            await proxy.start()
        return [proxy.url for proxy in self.to_gateway.values()]

    async def close(self) -> None:
        """Stop everything, proxies last."""
        try:
            await self.stop()
        finally:
            proxies = [*self.to_gateway.values(), *(p for its in self.to_nats.values() for p in its)]
            await asyncio.gather(*(proxy.stop() for proxy in proxies), return_exceptions=True)


async def run(folder: Path, *, seed: int, seconds: float, nats_nodes: int, pairs: int) -> Outcome:
    """Run for ``seconds``; the history goes to ``history.jsonl`` in ``folder``, the faults to ``faults.jsonl``."""
    history: list[Record] = []
    system = _System(folder, nats_nodes)
    await system.start()
    supervising = None
    try:
        crashed: list[str] = []
        supervising = asyncio.create_task(_supervise(system, crashed))
        urls = await system.open_to_clients()
        callers = [Pair(number, f"s{seed}", urls, seed, history.append) for number in range(pairs)]
        stop = asyncio.Event()
        talking = asyncio.gather(*(pair.go_on(stop) for pair in callers))
        faults = plan(seed, seconds, [f"nats-{n}" for n in range(nats_nodes)])
        begun = time.monotonic()
        with (folder / "faults.jsonl").open("w") as told:
            for fault in faults:
                await _until(begun + fault.at, talking)
                told.write(json.dumps({"clock": round(time.monotonic(), 3), **fault._asdict()}) + "\n")
                told.flush()
                await _strike(system, fault)
        await _until(begun + seconds, talking)
        stop.set()
        async with asyncio.timeout(2 * CALM_SECONDS):
            await talking
        await asyncio.sleep(2 * SUPERVISE_SECONDS)
        await system.ready()
        wrong = crashed + await _left_behind(system)
        await asyncio.gather(*(pair.leave() for pair in callers))
        save(history, folder / "history.jsonl")
        wrong += check(history)
        relays = sum(r.what == "answered" and r.event == "ice:candidate" and r.ok is True for r in history)
        resumes = Counter(r.resumed for r in history if r.what == "joined" and r.resumed is not None)
        return Outcome(faults, sum(pair.calls for pair in callers), relays, resumes, wrong)
    finally:
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        save(history, folder / "history.jsonl")
        await system.close()


async def _supervise(system: _System, crashed: list[str]) -> None:
    """Start again what could not start while NATS was away, as a supervisor does; note what ended otherwise."""
    while True:
        await asyncio.sleep(SUPERVISE_SECONDS)
        for name, tail in system.ended().items():
            if "cannot start" not in tail:
                crashed.append(f"{name} has ended: {tail}")
            system.restart(name)


async def _until(when: float, talking: "asyncio.Future[object]") -> None:
    """Wait, unless a caller has failed."""
    done, _ = await asyncio.wait({talking}, timeout=max(0.0, when - time.monotonic()))
    if done:
        talking.result()


async def _left_behind(system: _System) -> list[str]:
    """What is still stored of calls after a while."""
    try:
        await system.assert_quiet(QUIET_SECONDS)
    except AssertionError as error:
        return [f"left behind: {error}"]
    return []


async def _strike(system: _System, fault: Fault) -> None:
    victim = fault.victim
    if victim.startswith("nats-"):
        await _strike_nats(system, fault, int(victim.removeprefix("nats-")))
        return
    match fault.kind:
        case "kill":
            await asyncio.to_thread(system.kill, victim)
            await asyncio.sleep(fault.seconds)
            system.restart(victim)
        case "stop":
            await system.stop_one(victim)
            await asyncio.sleep(fault.seconds)
            system.restart(victim)
        case "pause":
            system.pause_one(victim)
            await asyncio.sleep(fault.seconds)
            system.resume_one(victim)
        case "cut":
            for proxy in system.to_nats[victim]:
                proxy.cut()
        case "partition":
            await _part(system.to_nats[victim], fault.seconds)
        case "clients":
            await _part([system.to_gateway[victim]], fault.seconds)
        case "slow":
            system.to_gateway[victim].delay(0.3)
            await asyncio.sleep(fault.seconds)
            system.to_gateway[victim].delay(0.0)


async def _strike_nats(system: _System, fault: Fault, node: int) -> None:
    server = system.nats[node]
    if fault.kind == "kill":
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(server.start)
    else:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    if len(system.nats) > 1:
        await system.whole()  # the next one may be another: one of three is away at a time


async def _part(proxies: list[Proxy], seconds: float) -> None:
    """Let nothing pass, on new connections either, and then reset all of them."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for proxy in proxies:
            proxy.half_open()
        await asyncio.sleep(0.02)
    for proxy in proxies:
        proxy.cut()
