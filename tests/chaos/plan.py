"""The faults of a run, from its seed and nothing else. Pure."""

import random
from collections.abc import Sequence
from typing import NamedTuple

SERVICES = ("gw-1", "gw-2", "cc-1", "cc-2", "pr-1", "pr-2")
GATEWAYS = ("gw-1", "gw-2")
QUIET_SECONDS = (1.5, 5.0)
"""From the end of a fault to the beginning of the next: promises are about one fault at a time."""


class Fault(NamedTuple):
    """``kind`` strikes ``victim`` at ``at`` seconds after the beginning and lasts for ``seconds``.

    ``kill``: SIGKILL, started again afterwards. ``stop``: SIGTERM, the same. ``pause``: SIGSTOP. ``cut``: its
    connections to NATS are reset. ``partition``: nothing passes between it and NATS, and neither side is told.
    ``clients``: the same between a gateway and its clients. ``slow``: everything between them is 0.3 s late.
    """

    at: float
    kind: str
    victim: str
    seconds: float


_KINDS = {
    # kind → (weight, shortest, longest)
    "kill": (5, 0.2, 4.0),
    "stop": (2, 0.2, 2.0),
    "pause": (4, 0.5, 7.0),
    "cut": (3, 0.0, 0.0),
    "partition": (3, 0.5, 6.0),
    "clients": (2, 0.5, 5.0),
    "slow": (1, 1.0, 4.0),
}


def plan(seed: int, seconds: float, nats: Sequence[str]) -> list[Fault]:
    """The faults of ``seconds``; ``nats``: names of the NATS servers."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at = chance.uniform(*QUIET_SECONDS)
    while at < seconds:
        kind = chance.choices(list(_KINDS), [weight for weight, _, _ in _KINDS.values()])[0]
        _, shortest, longest = _KINDS[kind]
        if kind in ("clients", "slow"):
            victims: Sequence[str] = GATEWAYS
        elif kind in ("kill", "pause"):
            victims = (*SERVICES, *nats, *nats[:1])
        else:
            victims = SERVICES
        lasts = round(chance.uniform(shortest, longest), 2)
        faults.append(Fault(round(at, 2), kind, chance.choice(victims), lasts))
        at += lasts + chance.uniform(*QUIET_SECONDS)
    return faults
