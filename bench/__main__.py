"""Measure this system and two others, alternately, on this machine.

    python -m bench --quick
    python -m bench --modes relay --servers ours,ours=/path/to/another/tree --rounds 7
    python -m bench --modes relay --servers ours,ours=HEAD~3

Each measurement starts the server anew and takes the load from another process. Ctrl-C ends everything and keeps what
was measured so far.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import apart, machine, plot, profile, servers, table
from bench.load import Job
from bench.modes import MODES
from bench.servers import BenchError, Counts, Running, Spec

EXTRA_SECONDS = 120.0
"""Extra time that one measurement may take, connecting and settling included, in seconds."""
TRIES = 2
OUT = Path("bench/out")


def main() -> int:
    """Run the requested measurements. Return 1 if one failed."""
    asked = _arguments().parse_args()
    if asked.quick:
        asked.rounds, asked.seconds, asked.sockets, asked.joins = 2, 2.0, 500, 300
    servers.raise_file_limit()
    counts = Counts(asked.gateways, asked.callcores, asked.presences)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="signalling-bench-", ignore_cleanup_errors=True) as name:
        try:
            modes = _names(asked.modes, MODES)
            settings = dict(_setting(text) for text in asked.env)
            specs = [servers.parse(text, Path(name), settings) for text in asked.servers.split(",")]
            labels = [spec.label for spec in specs]
            if len(set(labels)) < len(labels):
                raise BenchError(f"two servers of one name: {', '.join(labels)}")
            servers.check({spec.kind for spec in specs})
            if asked.profile:
                profile.program()
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        run = Run(specs, modes, asked, counts, Path(name))
        try:
            run.all()
        except KeyboardInterrupt as stop:
            print(f"stopped by {stop}", file=sys.stderr)
            run.failed = True
        run.report()
    return int(run.failed)


class Run:
    """Runs every server in every mode, round by round."""

    def __init__(
        self, specs: list[Spec], modes: list[str], asked: argparse.Namespace, counts: Counts, folder: Path
    ) -> None:
        self._specs = specs
        self._labels = [spec.label for spec in specs]
        self._asked = asked
        self._counts = counts
        self._folder = folder
        self._results: dict[str, table.Rounds] = {
            mode: {label: [] for label in self._labels} for mode in modes
        }
        self._machine = machine.describe()
        self._began = time.strftime("%Y-%m-%d %H:%M")
        self._mishaps: list[str] = []
        """Failed tries, including those that a later try made good."""
        self.failed = False

    def all(self) -> None:
        """Measure all servers alternately."""
        for number in range(self._asked.rounds):
            for mode, rounds in self._results.items():
                for spec in self._specs:
                    figures = self._try(spec, mode, number)
                    rounds[spec.label].append(figures)
                    self.failed = self.failed or figures is None
            self._write("bench.json", json.dumps(self._record(), indent=1))

    def _try(self, spec: Spec, mode: str, number: int) -> dict[str, float] | None:
        for _ in range(TRIES):
            try:
                figures = self._measure(spec, mode)
            except BenchError as error:
                self._mishaps.append(f"{number + 1} {mode} {spec.label}: {error}")
                print(self._mishaps[-1], file=sys.stderr)
                continue
            shown = {metric.key: figures[metric.key] for metric in table.METRICS if metric.mode == mode}
            print(
                f"{number + 1} {mode:7} {spec.label:10} "
                + " ".join(f"{key}={value:.4g}" for key, value in shown.items()),
                file=sys.stderr,
            )
            return figures
        return None

    def _measure(self, spec: Spec, mode: str) -> dict[str, float]:
        with (
            tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as name,
            servers.running(spec, self._counts, Path(name)) as running,
        ):
            if not self._asked.profile or spec.kind != "ours":
                return self._load(mode, running)
            seconds = self._asked.warm_seconds + self._asked.seconds
            options = ("--native",) if self._asked.profile == "native" else ()
            spy = profile.Profiler(running.roots, self._asked.out, f"{spec.label}-{mode}", seconds, options)
            try:
                figures = self._load(mode, running)
            finally:
                spy.stop()
            print(f"{spec.label} {mode}\n{spy.report()}\n")
            return figures

    def _load(self, mode: str, running: Running) -> dict[str, float]:
        asked = self._asked
        job = Job(
            mode,
            running.urls,
            running.roots,
            asked.seconds,
            asked.warm_seconds,
            asked.pairs,
            asked.window,
            asked.rate,
            asked.sockets,
            asked.joins,
        )
        limit = asked.seconds + asked.warm_seconds + EXTRA_SECONDS
        out, wrong = apart.run("bench.load", job, limit=limit)
        if wrong:
            raise BenchError(wrong)
        figures: dict[str, float] = json.loads(out)
        return figures

    # --- results ---

    def report(self) -> None:
        """Print the tables and write the files."""
        measured = {
            mode: rounds
            for mode, rounds in self._results.items()
            if any(any(each) for each in rounds.values())
        }
        if not measured:
            return
        about = "; ".join(f"{name} {text}" for name, text in self._machine.items())
        text = "\n\n".join(
            (
                f"{self._began}, {self._asked.rounds} rounds of {self._asked.seconds:g} s. {about}. "
                + table.disturbance(measured),
                table.table(measured, self._labels),
                table.shares(measured, self._labels),
            )
        )
        if self._mishaps:
            text += "\n\nTries that failed:\n\n" + "\n".join(f"- {mishap}" for mishap in self._mishaps)
        print(text)
        self._write("bench.md", text + "\n")
        self._write("bench.json", json.dumps(self._record(), indent=1))
        if len(self._labels) > 1:
            title = f"{self._labels[0]} divided by each other server; {self._machine['processor']}"
            self._write("bench.svg", plot.plot(table.ratios(measured, self._labels), title))
        print(f"\nwritten: {self._asked.out}/bench.{{json,md,svg}}", file=sys.stderr)

    def _record(self) -> dict[str, Any]:
        return {
            "began": self._began,
            "machine": self._machine,
            "asked": {name: str(value) for name, value in vars(self._asked).items()},
            "servers": self._labels,
            "mishaps": self._mishaps,
            "results": self._results,
        }

    def _write(self, name: str, text: str) -> None:
        self._asked.out.mkdir(parents=True, exist_ok=True)
        (self._asked.out / name).write_text(text)


def _stop(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--modes", default=",".join(MODES), help="of %(default)s")
    add("--servers", default="ours,redis,node", help="the first is compared with each other (%(default)s)")
    add("--rounds", type=_at_least(int, 1), default=5, help="how often each is measured (%(default)s)")
    add("--seconds", type=_at_least(float, 0.1), default=5.0, help="how long at a time (%(default)s)")
    add("--warm-seconds", type=_at_least(float, 0.0), default=2.0, help="load before that (%(default)s)")
    add("--out", type=Path, default=OUT, help="folder for JSON, table and plot (%(default)s)")
    add(
        "--profile",
        nargs="?",
        const="python",
        choices=("python", "native"),
        help="py-spy our services meanwhile; native: C functions too",
    )
    add("--quick", action="store_true", help="two rounds of two seconds, fewer sockets")
    add("--gateways", type=_at_least(int, 1), default=2)
    add("--callcores", type=_at_least(int, 1), default=1)
    add("--presences", type=_at_least(int, 1), default=1)
    add(
        "--pairs",
        type=_at_least(int, 2),
        default=20,
        help="pairs of users; half of it for calls (%(default)s)",
    )
    add("--window", type=_at_least(int, 1), default=4, help="candidates on their way a side (%(default)s)")
    add("--rate", type=_at_least(int, 2), default=1000, help="relays a second for latency (%(default)s)")
    add("--sockets", type=_at_least(int, 1), default=5000, help="idle ones (%(default)s)")
    add("--joins", type=_at_least(int, 1), default=1000, help="how many joins (%(default)s)")
    add("--env", action="append", default=[], metavar="KEY=VALUE", help="a setting of our services")
    return parser


def _at_least(kind: Callable[[str], Any], least: float) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        if (value := kind(text)) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}")
        return value

    return number


def _names(text: str, known: dict[str, Any]) -> list[str]:
    names = text.split(",")
    if wrong := [name for name in names if name not in known]:
        raise BenchError(f"{', '.join(wrong)}: must be of {', '.join(known)}")
    return names


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise BenchError(f"--env {text}: must be KEY=VALUE")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
