"""``make chaos``: faults of a seed for so long, and what the checker says of what clients saw."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import run


def main() -> int:
    """Exit status 1 if a promise was broken."""
    arguments = argparse.ArgumentParser(prog="make chaos", description="Options go into ARGS.")
    arguments.add_argument("--seconds", type=float, default=120)
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments.add_argument("--nats-nodes", type=int, default=1, choices=(1, 3))
    arguments.add_argument("--pairs", type=int, default=10)
    arguments.add_argument(
        "--folder", type=Path, help="for the history and the logs; a temporary one by default"
    )
    asked = arguments.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {asked.seed}, history and logs in {folder}\n")
    sys.stdout.flush()
    outcome = asyncio.run(
        run(folder, seed=asked.seed, seconds=asked.seconds, nats_nodes=asked.nats_nodes, pairs=asked.pairs)
    )
    for line in outcome.wrong[:50]:
        sys.stdout.write(f"WRONG {line}\n")
    sys.stdout.write(f"seed {asked.seed}, {asked.seconds:.0f} s, {asked.nats_nodes} NATS: {outcome.told()}\n")
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())
