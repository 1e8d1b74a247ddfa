"""One measurement, in a process of its own: ``python -m bench.load JOB``, JSON in, JSON out.

What this process costs is measured beside what the servers cost.
"""

import asyncio
import json
import sys
from dataclasses import dataclass

import uvloop

from bench import modes
from bench.client import ServerError
from bench.measure import Roots


@dataclass(frozen=True, slots=True)
class Job:
    """What to measure, where. Times in seconds."""

    mode: str
    urls: list[str]
    roots: Roots
    seconds: float
    warm_seconds: float
    pairs: int
    window: int
    """Candidates that each side of a pair keeps on their way."""
    rate: int
    """Relays a second in the mode ``latency``."""
    sockets: int
    """Idle sockets in the mode ``idle``."""
    joins: int


def main() -> int:
    """Measure and print; the exit status."""
    job = Job(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            print(json.dumps(runner.run(modes.MODES[job.mode](job))))
        except (ServerError, OSError, ExceptionGroup) as error:
            told = sorted({str(leaf)[:300] for leaf in _leaves(error)})
            print("; ".join(told[:5]), file=sys.stderr)
            return 1
    return 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
