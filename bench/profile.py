"""Profile the CPU of our services with py-spy beside a measurement.

Figures that are measured at the same time are worse for it; do not compare them with others.
"""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench.measure import Roots
from bench.servers import BenchError
from signalling.run.process import die_with_parent

PYTHON_ROLES = ("gateway", "callcore", "presence")
LINES = 25
RATE = 250
_BOTTOM = 0.95
STOP_SECONDS = 20.0


def program() -> str:
    """Return the path of py-spy. Raises :class:`BenchError` if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchError("py-spy is not installed: pip install py-spy")
    return found


class Profiler:
    """Runs one py-spy for each of our processes for ``seconds``; stacks go to ``folder/NAME-ROLE-N.txt``.

    ``options`` are py-spy's own, e.g. ``--native``.
    """

    def __init__(
        self, roots: Roots, folder: Path, name: str, seconds: float, options: tuple[str, ...] = ()
    ) -> None:
        self._folder = folder
        self._running: list[tuple[subprocess.Popen[bytes], str, Path]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for role in PYTHON_ROLES:
            for number, pid in enumerate(roots.get(role, []), 1):
                out = folder / f"{name.replace('=', '-')}-{role}-{number}.txt"
                # Only while Python runs: to py-spy, our event loop is busy also while it waits.
                command = [program(), "record", "--gil", "-p", str(pid)]
                command += ["-d", str(round(seconds)), "-r", str(RATE)]
                spy = subprocess.Popen(
                    [*command, *options, "-f", "raw", "--function", "-o", str(out)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
                self._running.append((spy, role, out))

    def stop(self) -> None:
        """Wait for the profilers."""
        for spy, _, _ in self._running:
            try:
                spy.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                spy.kill()
                spy.wait()

    def report(self) -> str:
        """Return the profile, by role."""
        stacks: dict[str, str] = {}
        for _, role, out in self._running:
            if out.exists():
                stacks[role] = stacks.get(role, "") + out.read_text()
        return "\n\n".join(f"{role}\n{summary(text)}" for role, text in stacks.items())


def summary(raw: str, lines: int = LINES) -> str:
    """Summarise collapsed stacks (``outer;…;inner COUNT``): shares of functions with, and without, their callees.

    The first list omits functions at the bottom of nearly every stack.
    """
    below: Counter[str] = Counter()
    own: Counter[str] = Counter()
    whole = 0
    for line in raw.splitlines():
        stack, _, text = line.rpartition(" ")
        frames, count = stack.split(";"), int(text)
        whole += count
        own[frames[-1]] += count
        below.update(dict.fromkeys(frames, count))
    texts = [f"  {whole} samples", "  in a function and what it calls"]
    texts += [f"  {n / whole:6.1%} {name}" for name, n in below.most_common() if n < _BOTTOM * whole][:lines]
    texts += ["  in a function itself"]
    return "\n".join([*texts, *(f"  {n / whole:6.1%} {name}" for name, n in own.most_common(lines))])
