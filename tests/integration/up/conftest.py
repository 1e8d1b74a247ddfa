"""Runs ``signalling up`` and looks after it."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 40.0


class Process(NamedTuple):
    """One line of the trace."""

    what: str
    service: str
    pid: int


class Running:
    """One ``signalling up`` with fake services; what it leaves in the system goes to ``folder``."""

    def __init__(self, folder: Path, *options: str, command: list[str] | None = None, **env: str) -> None:
        self.folder = folder
        self.temp = folder / "tmp"
        self.temp.mkdir(parents=True, exist_ok=True)
        self._trace = folder / "trace"
        self._trace.touch()
        self._out = folder / "out"
        fakes = [sys.executable, "-m", "tests.integration.up.fake_up", str(self._trace)]
        with self._out.open("ab") as out:
            self.process = subprocess.Popen(
                [*(command or fakes), *options],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temp), **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def out(self) -> str:
        """What it has said, both streams."""
        return self._out.read_text()

    def trace(self, what: str) -> list[Process]:
        """What the fakes have noted, in order: ``born``, ``asked`` (to stop), ``gone``."""
        lines = (line.split() for line in self._trace.read_text().splitlines())
        return [Process(word, service, int(pid)) for word, service, pid in lines if word == what]

    def until(self, check: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until ``check`` is true."""
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, f"not within {seconds} s:\n{self.out}"
            time.sleep(0.02)

    def ready(self) -> list[str]:
        """Wait until it says that it is ready; the URLs of the gateways."""
        self.until(lambda: "ready: " in self.out or self.process.poll() is not None)
        lines = [line for line in self.out.splitlines() if line.startswith("ready: ")]
        assert len(lines) == 1, self.out
        return lines[0].removeprefix("ready: ").split(" (")[0].split()

    def nats(self) -> int:
        """The pid of the embedded nats-server."""
        found = [pid for pid in descendants(self.process.pid) if "nats-server" in command_line(pid)]
        assert len(found) == 1, found
        return found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 10.0) -> int:
        """Send a signal; the exit status, which must come within that time."""
        self.process.send_signal(number)
        return self.process.wait(within)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts ``signalling up``; at the end nothing of it may be left."""
    started: list[Running] = []

    def start(*options: str, command: list[str] | None = None, **env: str) -> Running:
        running = Running(tmp_path / f"up {len(started)}", *options, command=command, **env)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(5)
    for running in started:
        pids = [process.pid for process in running.trace("born")]
        running.until(functools.partial(_none_alive, pids), 5)


def _none_alive(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    """Whether there is such a process, not counting one that only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """How the process was started; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found
