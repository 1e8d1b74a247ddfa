"""Token bucket: burst ``events``, refill over ``seconds``."""

import math
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_settings import NoDecode

_TEXT = re.compile(r"([0-9]+)/([0-9]+)", re.ASCII)
EVENTS_MAX, SECONDS_MAX = 999_999, 99_999


@dataclass(frozen=True, slots=True)
class Rate:
    """``events`` at once; each comes back after its share of ``seconds``. In settings: ``events/seconds``.

    Its state is one number for each client: when the next event is allowed. So a check of this token bucket is a
    comparison, and a count is an addition.
    """

    events: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.events}/{self.seconds}"

    @property
    def interval(self) -> float:
        """Return the seconds after which one more event is allowed."""
        return self.seconds / self.events

    @property
    def slack(self) -> float:
        """Return how many seconds after its last event a client with a full bucket could have sent all at once."""
        return self.seconds - self.interval

    def after(self, allowed_at: float, now: float) -> float:
        """Return when the next event is allowed after one at ``now``, which is at or after ``allowed_at``. Seconds."""
        return max(allowed_at, now - self.slack) + self.interval

    def forgotten_at(self, allowed_at: float) -> float:
        """Return when the bucket is full again, so that it need not be stored. Seconds."""
        return allowed_at + self.slack


@dataclass(frozen=True, slots=True)
class ByteRate:
    """``size`` bytes at once, refilled over ``seconds``: a token bucket whose events have different prices.

    It is kept by one number: when the bucket will be full again, in seconds of any clock.
    """

    size: int
    seconds: int

    @classmethod
    def of_kib(cls, rate: Rate) -> "ByteRate":
        """Return the rate of which a setting says the KiB and the seconds."""
        return cls(rate.events * 1024, rate.seconds)

    def charge(self, full_at: float, now: float, size: int) -> float:
        """Return when the bucket is full again after ``size`` bytes at ``now``.

        More than :attr:`seconds` from now: they are not allowed, and ``full_at`` stays.
        """
        return (full_at if full_at > now else now) + size * self.seconds / self.size

    def wait(self, full_at: float, now: float) -> float:
        """Return how many seconds it takes until what :meth:`charge` returned is allowed; 0 or less: it is."""
        return full_at - now - self.seconds


def _parse(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _TEXT.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be events/seconds, like 20/60")
    for what, digits, most in (("events", match[1], EVENTS_MAX), ("seconds", match[2], SECONDS_MAX)):
        if len(digits) > len(str(most)) or not 1 <= int(digits) <= most:
            raise ValueError(f"{what} must be 1 to {most}, in events/seconds like 20/60")
    return Rate(int(match[1]), int(match[2]))


RateSetting = Annotated[
    Rate, NoDecode, BeforeValidator(_parse), WithJsonSchema({"type": "string", "pattern": "events/seconds"})
]
"""A :class:`Rate` in the environment."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, at least one, for a client to wait."""
    return max(1, math.ceil(seconds * 1000))
