"""Measure what a rollup adds to a bucket write, in microseconds of nats-server's CPU: the figure behind ADR 11.

    python -m bench.rollups

Runs a nats-server of its own. Both ways alternately, five times; medians and their ratio.
"""

import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path

from shared.nats import streams
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats

ROUNDS, KEYS, WRITES = 5, 50, 60
VALUE = b"v" * 300


async def main() -> None:
    """Measure and print both ways and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedNats(Path(folder))
        server.start()
        try:
            await _measure(server)
        finally:
            server.stop()


async def _measure(server: EmbeddedNats) -> None:
    bus = await Bus.connect(server.url, name="bench")
    costs: dict[str, list[float]] = {"limit": [], "rollup": []}
    for number in range(ROUNDS):
        for way, measured in costs.items():
            name = f"{way}{number}"
            limit = 1 if way == "limit" else -1
            await streams.ensure(
                bus,
                {
                    "name": f"KV_{name}",
                    "subjects": [f"$KV.{name}.>"],
                    "max_msgs_per_subject": limit,
                    "discard": "new",
                    "allow_rollup_hdrs": True,
                    "allow_msg_ttl": True,
                },
            )
            header = "Nats-Rollup" if way == "rollup" else "Bench-Nothing"
            before = _cpu_seconds(server)
            await asyncio.gather(*(_write(bus, f"$KV.{name}.k{key}", header) for key in range(KEYS)))
            measured.append((_cpu_seconds(server) - before) / (KEYS * WRITES) * 1e6)
    await bus.close()
    limit_us, rollup_us = (statistics.median(costs[way]) for way in costs)
    print(
        f"limit  {limit_us:5.0f} us a write\nrollup {rollup_us:5.0f} us a write\nratio  {rollup_us / limit_us:5.2f}"
    )


async def _write(bus: Bus, subject: str, header: str) -> None:
    """Write a key repeatedly, each time at its current revision, as buckets do."""
    revision = 0
    for _ in range(WRITES):
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision), header: "sub"}
        answer = await bus.request(subject, VALUE, timeout=5, headers=headers)
        revision = json.loads(answer.data)["seq"]


def _cpu_seconds(server: EmbeddedNats) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    asyncio.run(main())
