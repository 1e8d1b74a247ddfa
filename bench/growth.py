"""Measure how CPU per relay grows with the number of live calls and of idle sockets.

    python -m bench.growth
    python -m bench.growth --calls 10,100 --idle 0,1000 --seconds 2

One server for each number of idle sockets, on which calls are added step by step. At each step are measured: what the
system costs with nothing relayed (pings, sweeps, leases), then what a relay adds to that, at a steady rate and at
saturation. Calls are swept as often as something is measured, so that each measurement has its share of it.
The number of relays in flight is the same for any number of calls; calls send one after the other.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import uvloop

from bench import apart, machine, measure, servers
from bench.client import ServerError, Socket, connect_all, join_all
from bench.costs import Cost
from bench.growth_table import Step, plot, table
from bench.measure import Figures
from bench.pairs import candidate_of, make_calls, make_pairs
from bench.servers import BenchError, Counts

SETTLE_SECONDS = 2.0
DRAIN_SECONDS = 10.0
SETUP_PER_SECOND = 25.0
"""Lowest number of calls and joins a second; a slower step has failed."""
OUT = Path("bench/out")


@dataclass(frozen=True, slots=True)
class Job:
    """Describes the work of one client process. Times in seconds."""

    urls: list[str]
    roots: measure.Roots
    idle: int
    calls: list[int]
    rate: int
    window: int
    """Relays in flight at saturation, over all calls."""
    seconds: float
    warm_seconds: float


# --- the clients, in a process of their own -------------------------------------------------------------------


class Sides:
    """Sends from both sides of all calls, one after the other."""

    def __init__(self) -> None:
        self.sides: list[tuple[Socket, bytes]] = []
        self.sent = self.arrived = 0
        self.keep_going = False
        self._next = 0

    async def add(self, job: Job, count: int) -> None:
        """Make more calls, until there are ``count``."""
        there = len(self.sides) // 2
        pairs = await make_pairs(job.urls, range(there, count))
        for (caller, callee), call in zip(pairs, await make_calls(pairs), strict=True):
            for one, other in ((caller, callee), (callee, caller)):
                self.sides.append((one, candidate_of(one, other, call)))
                one.on_event = self._on_event
        random.Random(count).shuffle(self.sides)

    def _on_event(self, name: bytes, data: bytes) -> None:
        if name == b"ice:candidate":
            self.arrived += 1
            if self.keep_going:
                self.send()
        elif name == b"error":
            raise ServerError(data.decode())

    def send(self) -> None:
        """Have the next side send a candidate."""
        self._next = (self._next + 1) % len(self.sides)
        socket, data = self.sides[self._next]
        self.sent += 1
        socket.send(data)

    async def drained(self) -> None:
        """Wait for the relays in flight. Raises :class:`ServerError` if some do not arrive."""
        self.keep_going = False
        until = time.monotonic() + DRAIN_SECONDS
        while self.arrived < self.sent and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if self.arrived != self.sent or any(socket.closed for socket, _ in self.sides):
            raise ServerError(f"{self.sent - self.arrived} messages were lost, or a connection")


async def grow(job: Job) -> None:
    """Measure step by step, and print a line of JSON for each."""
    idle = [Socket(f"idle{i}") for i in range(job.idle)]
    await connect_all(idle, job.urls)
    await join_all(idle)
    sides = Sides()
    for count in job.calls:
        await sides.add(job, count)
        await asyncio.sleep(SETTLE_SECONDS)
        cost = Cost(job.roots)
        await asyncio.sleep(2 * job.seconds)  # two whole sweeps
        rest = cost.per(1)
        steady = await _steady(job, sides)
        full = await _saturated(job, sides)
        if any(socket.closed for socket in idle):
            raise ServerError("an idle connection was closed")
        print(json.dumps({"calls": count, "idle": job.idle, "rest": rest, "steady": steady, "full": full}))
        sys.stdout.flush()


async def _steady(job: Job, sides: Sides) -> Figures:
    moments = random.Random(1)
    clock = time.perf_counter

    async def send_until(end: float) -> None:
        due = clock()
        while due < end:
            while due <= clock():
                sides.send()
                due += moments.expovariate(job.rate)
            await asyncio.sleep(max(0.0, due - clock()))

    await send_until(clock() + job.warm_seconds)
    before, cost = sides.sent, Cost(job.roots)
    await send_until(clock() + job.seconds)
    figures = cost.per(sides.sent - before)
    await sides.drained()
    return figures


async def _saturated(job: Job, sides: Sides) -> Figures:
    sides.keep_going = True
    for _ in range(job.window):
        sides.send()
    await asyncio.sleep(job.warm_seconds)
    before, cost = sides.arrived, Cost(job.roots)
    await asyncio.sleep(job.seconds)
    figures = cost.per(sides.arrived - before)
    await sides.drained()
    return figures


# --- the run ----------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the requested measurements. Return 1 if one failed."""
    if sys.argv[1:2] == ["--load"]:
        return _load(sys.argv[2])
    asked = _arguments().parse_args()
    files = servers.raise_file_limit()
    if (needed := max(asked.idle) + 2 * max(asked.calls) + 500) > files:
        print(f"growth: {needed} files are needed, {files} allowed (ulimit -Hn)", file=sys.stderr)
        return 2
    began, steps, failed = time.strftime("%Y-%m-%d %H:%M"), list[Step](), False
    for idle in asked.idle:
        try:
            steps += _measure(asked, idle)
        except BenchError as error:
            print(f"growth: {idle} idle: {error}", file=sys.stderr)
            failed = True
    if steps:
        about = machine.describe()
        text = (
            f"{began}. {'; '.join(f'{name} {value}' for name, value in about.items())}.\n\n{table(steps)}\n"
        )
        print(text)
        asked.out.mkdir(parents=True, exist_ok=True)
        record = {
            "began": began,
            "machine": about,
            "asked": {name: str(value) for name, value in vars(asked).items()},
            "steps": [asdict(step) for step in steps],
        }
        (asked.out / "growth.json").write_text(json.dumps(record, indent=1))
        (asked.out / "growth.md").write_text(text)
        (asked.out / "growth.svg").write_text(plot(steps))
        print(f"written: {asked.out}/growth.{{json,md,svg}}", file=sys.stderr)
    return int(failed)


def _measure(asked: argparse.Namespace, idle: int) -> list[Step]:
    """Return the steps of one server. Raises :class:`BenchError`, after printing those before it."""
    with tempfile.TemporaryDirectory(prefix="signalling-growth-", ignore_cleanup_errors=True) as name:
        spec = servers.parse("ours", Path(name), {"SWEEP_SECONDS": f"{asked.seconds:g}"})
        with servers.running(
            spec, Counts(asked.gateways, asked.callcores, asked.presences), Path(name)
        ) as ours:
            job = Job(
                ours.urls,
                ours.roots,
                idle,
                asked.calls,
                asked.rate,
                asked.window,
                asked.seconds,
                asked.warm_seconds,
            )
            setup = (idle + 3 * max(asked.calls)) / SETUP_PER_SECOND
            each = 4 * asked.seconds + 2 * asked.warm_seconds + SETTLE_SECONDS + 2 * DRAIN_SECONDS
            return _clients(job, setup + each * len(asked.calls) + 30)


def _clients(job: Job, limit: float) -> list[Step]:
    out, wrong = apart.run("bench.growth", job, "--load", limit=limit)
    steps = [Step(**json.loads(line)) for line in out.splitlines()]
    print(table(steps), file=sys.stderr)
    if wrong:
        raise BenchError(wrong)
    return steps


def _load(text: str) -> int:
    job = Job(**json.loads(text))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(grow(job))
        except (ServerError, OSError, ExceptionGroup) as error:
            print(repr(error)[:1000], file=sys.stderr)
            return 1
    return 0


def _numbers(text: str) -> list[int]:
    return sorted(int(part) for part in text.split(","))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(parser.add_argument, type=int)
    parser.add_argument("--calls", type=_numbers, default="10,100,1000,2000", help="live calls (%(default)s)")
    parser.add_argument(
        "--idle", type=_numbers, default="0,10000", help="idle sockets beside them (%(default)s)"
    )
    add("--rate", default=2000, help="relays a second, over all calls (%(default)s)")
    add("--window", default=160, help="relays on their way at saturation, over all calls (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long at a time (%(default)s)")
    parser.add_argument("--warm-seconds", type=float, default=1.0, help="load before that (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for JSON, table and plot (%(default)s)")
    add("--gateways", default=2)
    add("--callcores", default=1)
    add("--presences", default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
