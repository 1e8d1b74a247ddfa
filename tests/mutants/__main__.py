"""``python -m tests.mutants``: run the kept mutants and mutmut on the pure modules. See docs/testing.md."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants import kept


def main() -> int:
    """Return 0 if every mutant is noticed or argued for."""
    parser = argparse.ArgumentParser(prog="tests.mutants", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which kept mutants cannot be applied")
    parser.add_argument(
        "-k", metavar="WORD", default="", help="only mutants with this word in name, file or test"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    arguments = parser.parse_args()
    mutants = [m for m in kept.read() if arguments.k in f"{m.name} {m.file} {m.test}"]
    if lines := kept.stale(mutants):
        print("\n".join(lines))
        return 1
    if arguments.check:
        return 0
    missed = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for verdict in kept.run(mutants, Path(folder), jobs=arguments.jobs):
            missed += bool(verdict.problem)
            print(
                f"{verdict.seconds:5.1f} s  {verdict.mutant.name:24} {verdict.problem or 'noticed'}",
                flush=True,
            )
    print(f"{len(mutants) - missed} of {len(mutants)} kept mutants noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
