"""Measure CPU and memory of process trees, from ``/proc`` (Linux)."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")

Figures = dict[str, float]
Roots = dict[str, list[int]]
"""Maps a role to its processes; their children count as theirs."""


def cpu_seconds(roots: Roots) -> dict[str, float]:
    """Return role → CPU time of its trees so far, in seconds (10 ms ticks). A root that is gone counts 0."""
    stats = _stats()
    return {role: sum(stats[pid][1] for pid in _tree(pids, stats)) / _TICKS for role, pids in roots.items()}


def pss_bytes(roots: Roots) -> dict[str, int]:
    """Return role → proportional set size of its trees, in bytes; shared memory counts once."""
    stats = _stats()
    return {role: sum(_pss(pid) for pid in _tree(pids, stats)) for role, pids in roots.items()}


def wakeups(roots: Roots) -> dict[str, int]:
    """Return role → how often the threads of its trees have gone to sleep so far."""
    stats = _stats()
    return {role: sum(_sleeps(pid) for pid in _tree(pids, stats)) for role, pids in roots.items()}


def machine_seconds() -> tuple[float, float]:
    """Return the CPU seconds that all processes have used, and those that the host withheld (steal)."""
    # user nice system idle iowait irq softirq steal
    ticks = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks[:3]) + ticks[5] + ticks[6]) / _TICKS, ticks[7] / _TICKS


def _tree(roots: list[int], stats: dict[int, tuple[int, int]]) -> set[int]:
    """Return the roots that are there and all their descendants."""
    found = {pid for pid in roots if pid in stats}
    while more := {pid for pid, (parent, _) in stats.items() if parent in found} - found:
        found |= more
    return found


def _stats() -> dict[int, tuple[int, int]]:
    """Return pid → (parent, ticks of user and system time) of every process."""
    found = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                # The name of the program is in brackets and may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(folder.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    return found


def _pss(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _sleeps(pid: int) -> int:
    count = 0
    for status in (_PROC / str(pid) / "task").glob("*/status"):
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
    return count
