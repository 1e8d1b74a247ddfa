"""``make explore``: explore every world, and see that each planted fault is found.

``--only NAME`` explores one world; ``--small`` leaves out the large ones.
"""

import argparse
import sys

from tests.explore.explorer import Count, TooLarge, Violation, explore
from tests.explore.faults import FAULTS
from tests.explore.world import Maker
from tests.explore.worlds import WORLDS


def main() -> int:
    """Exit status 1 if a world is wrong, or a planted fault was not found."""
    arguments = argparse.ArgumentParser(prog="make explore", description="Options go into ARGS.")
    arguments.add_argument("--only", metavar="NAME", help="this world only")
    arguments.add_argument("--small", action="store_true", help="without the worlds that take long")
    arguments.add_argument("--most", type=int, default=100_000, help="states of a world, at most")
    asked = arguments.parse_args()
    total, wrong = Count(), 0
    for spec in WORLDS:
        if (asked.only not in (None, spec.name)) or (asked.small and spec.large):
            continue
        try:
            count = explore(spec.name, Maker(spec), most=asked.most)
        except Violation as violation:
            wrong += 1
            sys.stdout.write(f"WRONG {violation}\n")
            continue
        except TooLarge:
            sys.stdout.write(
                f"{spec.name}: nothing wrong in {asked.most} states; NOT explored to the end (--most)\n"
            )
            sys.stdout.flush()
            continue
        total.add(count)
        sys.stdout.write(f"{spec.name}: {told(count)}\n")
        sys.stdout.flush()
    sys.stdout.write(f"all: {told(total)}\n")
    if asked.only is None:
        wrong += sum(not found(fault.name) for fault in FAULTS)
    return int(wrong > 0)


def told(count: Count) -> str:
    """The figures of an exploration in words."""
    return (
        f"{count.states} states, {count.steps} steps, {count.schedules} schedules, {count.ends} ends, "
        f"{count.deepest} steps deep, {count.seconds:.1f} s"
    )


def found(name: str) -> bool:
    """Whether a planted fault is found; said on standard output, too."""
    fault = next(fault for fault in FAULTS if fault.name == name)
    spec = next(spec for spec in WORLDS if spec.name == fault.world)
    try:
        explore(spec.name, Maker(spec, fault.changes))
    except Violation as violation:
        steps = len(violation.schedule)
        sys.stdout.write(f"planted: {name}\n  found after {steps} steps: {violation.what}\n")
        return True
    sys.stdout.write(f"planted: {name}\n  NOT FOUND in {spec.name}\n")
    return False


if __name__ == "__main__":
    sys.exit(main())
