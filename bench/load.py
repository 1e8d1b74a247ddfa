"""Run one measurement in a process of its own: ``python -m bench.load JOB``, JSON in, JSON out.

The CPU of this process is measured beside that of the servers.
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
    """Describes what to measure, and where. Times in seconds."""

    mode: str
    urls: list[str]
    roots: Roots
    seconds: float
    warm_seconds: float
    pairs: int
    window: int
    """Candidates that each side of a pair keeps in flight."""
    rate: int
    """Relays a second in the mode ``latency``."""
    sockets: int
    """Idle sockets in the mode ``idle``."""
    joins: int


def main() -> int:
    """Measure and print. Return the exit status."""
    job = Job(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            print(json.dumps(runner.run(modes.MODES[job.mode](job))))
        except (ServerError, OSError, ExceptionGroup) as error:
            texts = sorted({str(leaf)[:300] for leaf in _leaves(error)})
            print("; ".join(texts[:5]), file=sys.stderr)
            return 1
    return 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
