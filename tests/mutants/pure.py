"""Run mutmut on the pure modules, and each survivor once more in a process of its own.

mutmut forks its tests from a process that has imported the modules. What a module computes while it is imported, such
as the table of the call machine, is therefore the unchanged one there; hence the second run.
"""

import os
import resource
import subprocess
import sys
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants import kept

ARGUED = Path(__file__).parent / "argued.toml"
PURE_SECONDS = 3_600
MEMORY_BYTES = 4 * 1024**3
TESTS = {
    "services.callcore": ("tests/unit/callcore",),
    "services.gateway": ("tests/unit/gateway",),
    "services.presence": ("tests/unit/presence",),
    "shared": ("tests/unit/shared", "tests/unit/callcore", "tests/unit/gateway", "tests/unit/signalling"),
}
"""Package of a mutated module → the tests that its survivors have to pass once more."""


class Result(NamedTuple):
    """Counts by module, and the mutants that no test noticed: (mutmut's name, the changed line)."""

    killed: Counter[str]
    survived: Counter[str]
    survivors: list[tuple[str, str]]


def run(folder: Path, *, jobs: int) -> Result:
    """Mutate the pure modules in a copy of the tree below ``folder``. Raises ``SystemExit`` if mutmut cannot run."""
    tree = folder / "pure"
    kept.copy_tree(tree)
    subprocess.run(["git", "init", "-q", "."], cwd=tree, check=True)
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs)]
    with (folder / "mutmut.log").open("wb") as log:
        status = subprocess.run(
            command, cwd=tree, stdout=log, stderr=log, timeout=PURE_SECONDS, preexec_fn=_bound_memory
        ).returncode
    states = _states(tree)
    if status != 0 or not states:
        raise SystemExit((folder / "mutmut.log").read_text(errors="replace")[-2_000:])
    return judge(tree, states, jobs=jobs)


def _bound_memory() -> None:
    """A mutant may loop without an end and take all memory; each process of mutmut gets this much at most."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def judge(tree: Path, states: dict[str, str], *, jobs: int) -> Result:
    """Run what survived once more, each in a process of its own. ``states``: mutmut's name → what it says of it."""
    doubtful = [name for name, state in states.items() if state not in ("killed", "timeout")]
    with ThreadPoolExecutor(jobs) as pool:
        noticed = dict(zip(doubtful, pool.map(lambda name: _is_noticed(tree, name), doubtful), strict=True))
    killed: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for name in states:
        (killed if noticed.get(name, True) else survived)[_split(name)[0]] += 1
    missed = [name for name in doubtful if not noticed[name]]
    return Result(killed, survived, [(name, _changed_line(tree, name)) for name in missed])


def argued() -> dict[tuple[str, str], str]:
    """Return why a survivor is none: (function, changed line) → reason."""
    entries = tomllib.loads(ARGUED.read_text()).get("survivor", [])
    return {(entry["function"], entry["line"]): entry["why"] for entry in entries}


def function_of(name: str) -> str:
    """Return the function that a mutant is of, without mutmut's marks and number."""
    module, function = _split(name)
    return f"{module}.{function}"


def _split(name: str) -> tuple[str, str]:
    """Return module and function. mutmut writes ``module.xǁClassǁmethod`` and ``module.x_function``."""
    module, _, mangled = name.rpartition("__mutmut_")[0].rpartition(".")
    function = mangled[2:].replace("ǁ", ".") if mangled.startswith(("x_", "xǁ")) else mangled
    return module, function


def _states(tree: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    said = subprocess.run(command, cwd=tree, capture_output=True, check=True).stdout.decode()
    pairs = (line.strip().partition(": ") for line in said.splitlines() if "__mutmut_" in line)
    return {name: state for name, _, state in pairs}


def _is_noticed(tree: Path, name: str) -> bool:
    tests = next(tests for package, tests in TESTS.items() if name.startswith(package))
    place = tree / "mutants"
    environment = {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": str(place)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=60"]
    try:
        done = subprocess.run(
            [*command, *(test for test in tests if (place / test).exists())],
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=kept.TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def _changed_line(tree: Path, name: str) -> str:
    command = [sys.executable, "-m", "mutmut", "show", name]
    said = subprocess.run(command, cwd=tree, capture_output=True).stdout.decode()
    lines = [line[1:].strip() for line in said.splitlines() if line.startswith("+") and line[:3] != "+++"]
    return " ".join(lines)
