"""Run the kept mutants: each is a change that a developer might make, and names the test that must fail.

A mutant replaces one text of one file. The text must be in that file exactly once, so that the list cannot rot.
"""

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

REPOSITORY = Path(__file__).parent.parent.parent
FOLDER = Path(__file__).parent / "changes"
TEST_SECONDS = 120
FAILED = 1
"""Exit status of pytest when tests were run, and one has failed."""


class Mutant(NamedTuple):
    """A change. ``harm``: what a user or an operator would see. ``test``: the pytest node that must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str
    harm: str


class Verdict(NamedTuple):
    """The result of one mutant. ``problem`` is empty if the test failed as it must."""

    mutant: Mutant
    problem: str
    seconds: float


def read(folder: Path = FOLDER) -> list[Mutant]:
    """Return all kept mutants, sorted by file name. Raises ``TypeError`` for an entry with a wrong key."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for number, entry in enumerate(tomllib.loads(path.read_text())["mutant"], 1):
            found.append(Mutant(name=f"{path.stem}-{number}", **entry))
    return found


def changed(mutant: Mutant, source: str) -> str:
    """Return ``source`` with the change. Raises ``ValueError`` if the old text is not there exactly once."""
    if (count := source.count(mutant.old)) != 1:
        raise ValueError(f"its text is {count} times in {mutant.file}, not once")
    result = source.replace(mutant.old, mutant.new)
    if mutant.file.endswith(".py"):
        compile(result, mutant.file, "exec")  # a typing error would make any test fail
    return result


def stale(mutants: Sequence[Mutant], root: Path = REPOSITORY) -> list[str]:
    """Return a line for each mutant that can no longer be applied."""
    lines = []
    for mutant in mutants:
        try:
            changed(mutant, (root / mutant.file).read_text())
        except (OSError, ValueError, SyntaxError) as error:
            lines.append(f"{mutant.name}: {error}")
    return lines


def copy_tree(target: Path, root: Path = REPOSITORY) -> None:
    """Copy all files that git knows, or would add, to ``target``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copy = root / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
            copy.chmod(source.stat().st_mode)


def run_test(tree: Path, *tests: str) -> tuple[int, str]:
    """Run tests in ``tree``. Returns pytest's exit status and the end of its output."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    environment.pop("CI", None)
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TEST_SECONDS * max(1, len(tests)),
        )
    except subprocess.TimeoutExpired:
        return FAILED, "timed out"
    return done.returncode, done.stdout.decode(errors="replace")[-2_000:]


def judge(mutant: Mutant, tree: Path) -> Verdict:
    """Apply a mutant in ``tree``, run its test, and undo the change."""
    file, begun = tree / mutant.file, time.monotonic()
    before = file.read_text()
    _write(file, changed(mutant, before))
    try:
        status, output = run_test(tree, mutant.test)
    finally:
        _write(file, before)
    if status == FAILED:
        problem = ""
    elif status == 0:
        problem = f"{mutant.test} passes"
    else:
        problem = f"{mutant.test} cannot be run (status {status}): {output[-400:]}"
    return Verdict(mutant, problem, time.monotonic() - begun)


def _write(file: Path, text: str) -> None:
    """Write a file, and remove its bytecode, which Python may take for that of a file written in the same second."""
    file.write_text(text)
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


def run(mutants: Sequence[Mutant], folder: Path, *, jobs: int) -> Iterator[Verdict]:
    """Yield a verdict for each mutant as it is known, ``jobs`` at a time, in copies of the tree below ``folder``.

    Raises ``SystemExit`` if a test that is named fails without any change.
    """
    trees: Queue[Path] = Queue()
    for number in range(jobs):
        copy_tree(folder / f"tree-{number}")
        trees.put(folder / f"tree-{number}")
    tests = sorted({mutant.test for mutant in mutants})
    status, output = run_test(folder / "tree-0", *tests)
    if status != 0:
        raise SystemExit(f"the tests do not pass on the unchanged source:\n{output}")

    def one(mutant: Mutant) -> Verdict:
        tree = trees.get()
        try:
            return judge(mutant, tree)
        finally:
            trees.put(tree)

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, mutants)
