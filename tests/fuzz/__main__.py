"""``make fuzz``: change frames of the corpus and see whether the two ways agree on them, for as long as asked.

What ends like nothing before it is changed further. A failure is printed and kept: mend it, and put it into the corpus.
"""

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutate import corpus, mutate
from tests.support.relay_paths import try_both

SEEDS_MAX = 4_000
FAILURES_MAX = 10


def main() -> int:
    """Exit status 1 if there was a failure."""
    arguments = argparse.ArgumentParser(prog="make fuzz", description="Options go into ARGS.")
    arguments.add_argument("--seconds", type=float, default=120)
    arguments.add_argument("--seed", type=int, default=time.time_ns())
    arguments.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for what fails")
    asked = arguments.parse_args()
    chance, seeds = random.Random(asked.seed), list(corpus().values())
    seen = {try_both(frames) for frames in seeds}
    tried = failed = 0
    begun = time.monotonic()
    while time.monotonic() < begun + asked.seconds and failed < FAILURES_MAX:
        frames = mutate(seeds, chance)
        tried += 1
        try:
            signature = try_both(frames)
        except Exception:  # noqa: BLE001  # whatever it is, it is what is looked for
            failed += 1
            asked.keep.mkdir(exist_ok=True)
            file = asked.keep / f"{asked.seed}-{tried}"
            file.write_bytes(b"\n".join(frames))
            traceback.print_exc()
            sys.stderr.write(f"kept in {file}\n\n")
            continue
        if signature not in seen and len(seeds) < SEEDS_MAX:
            seen.add(signature)
            seeds.append(frames)
    sys.stdout.write(
        f"{tried} tried in {time.monotonic() - begun:.0f} s, {len(seen)} different ends, {failed} failed, "
        f"seed {asked.seed}\n"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
