"""``python -m tests.mutants``: run the kept mutants, and mutmut on the pure modules. See docs/testing.md."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants import kept, pure

SHARE = 0.95
"""The part of mutmut's mutants that the tests must notice; each of the others has its reason in ``argued.toml``."""


def main() -> int:
    """Return 0 if every mutant is noticed, or argued for."""
    parser = argparse.ArgumentParser(prog="tests.mutants", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which kept mutants cannot be applied")
    parser.add_argument(
        "-k", metavar="WORD", default="", help="only kept mutants with this word in name, file or test"
    )
    parser.add_argument("--only", choices=("kept", "pure"), help="one half of it")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    arguments = parser.parse_args()
    mutants = [m for m in kept.read() if arguments.k in f"{m.name} {m.file} {m.test}"]
    if lines := kept.stale(mutants):
        print("\n".join(lines))
        return 1
    if arguments.check:
        return 0
    good = True
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        if arguments.only != "pure":
            good = run_kept(mutants, Path(folder), arguments.jobs)
        if arguments.only != "kept" and not arguments.k:
            good = report(pure.run(Path(folder), jobs=arguments.jobs)) and good
    return 0 if good else 1


def run_kept(mutants: list[kept.Mutant], folder: Path, jobs: int) -> bool:
    """Run the kept mutants. Returns True if each was noticed."""
    missed = 0
    for verdict in kept.run(mutants, folder, jobs=jobs):
        missed += bool(verdict.problem)
        print(
            f"{verdict.seconds:5.1f} s  {verdict.mutant.name:24} {verdict.problem or 'noticed'}", flush=True
        )
    print(f"{len(mutants) - missed} of {len(mutants)} kept mutants noticed")
    return not missed


def report(result: pure.Result) -> bool:
    """Print what mutmut found. Returns True if enough was noticed and the rest is argued for."""
    reasons, unexplained = pure.argued(), []
    for name, line in result.survivors:
        if (pure.function_of(name), line) not in reasons:
            unexplained.append(f"{pure.function_of(name)}: {line}")
    for module in sorted({*result.killed, *result.survived}):
        killed, survived = result.killed[module], result.survived[module]
        print(f"{module:36} {killed:5} noticed, {survived:3} not")
    killed, all_ = result.killed.total(), result.killed.total() + result.survived.total()
    print(f"{killed} of {all_} mutants of the pure modules noticed ({killed / all_:.1%})")
    print("\n".join(f"not argued for: {line}" for line in sorted(unexplained)))
    return killed >= SHARE * all_ and not unexplained


if __name__ == "__main__":
    sys.exit(main())
