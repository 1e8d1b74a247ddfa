"""Compute how long to wait before another try."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter: waits double from ``first`` to ``longest`` seconds.

    ``jitter``: the share of a wait that is random, 0 to 1, so that those that failed together do not try together.
    """

    first: float
    longest: float
    jitter: float = 0.5

    def seconds(self, attempt: int) -> float:
        """Return how many seconds to wait after the failed try number ``attempt``; the first try is 0."""
        limit: float = min(self.longest, self.first * 2.0 ** min(attempt, 32))
        return limit * (1 - self.jitter * random.random())
