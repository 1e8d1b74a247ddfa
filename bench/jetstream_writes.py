"""Measure JetStream's ways to write and read, in microseconds each: the figures behind ADR 1.

    python -m bench.jetstream_writes nats://127.0.0.1:4222

Writes to a stream of its own, which it deletes again. Absolute times depend on the machine; compare the lines.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from shared.ids import new_id
from shared.nats import streams
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, Bucket

COUNT = 300
NAME = "bench"
VALUE = b'{"state":"ringing"}' * 20


async def main(url: str) -> None:
    """Measure and print one line for each way."""
    bus = await Bus.connect(url, name="bench")
    config = {
        "name": f"KV_{NAME}",
        "subjects": [f"$KV.{NAME}.>"],
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_atomic": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
    }
    await streams.ensure(bus, config)
    bucket = Bucket(bus, NAME)

    async def put(i: int) -> None:
        await bucket.put(f"put.{i}", VALUE, ABSENT)

    async def three_puts(i: int) -> None:
        for part in ("a", "b", "c"):
            await bucket.put(f"three.{part}{i}", VALUE, ABSENT)

    async def atomic_batch(i: int) -> None:
        batch = new_id()
        for number, part in enumerate(("a", "b", "c"), 1):
            headers = {
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(number),
                "Nats-Expected-Last-Subject-Sequence": "0",
            }
            subject = f"$KV.{NAME}.batch.{part}{i}"
            if number < 3:
                bus.publish(subject, VALUE, headers=headers)
            else:
                await bus.request(subject, VALUE, timeout=5, headers={**headers, "Nats-Batch-Commit": "1"})

    async def get(i: int) -> None:
        await bucket.get(f"put.{i}")

    async def get_fresh(i: int) -> None:
        await bucket.get(f"put.{i}", fresh=True)

    try:
        for name, way in (
            ("one put", put),
            ("three puts, one after the other", three_puts),
            ("one atomic batch of three", atomic_batch),
            ("one get", get),
            ("one get from the leader", get_fresh),
        ):
            print(f"{name:36} {await _each(way):8.0f} µs")
    finally:
        await streams.api(bus, f"STREAM.DELETE.KV_{NAME}", {})
        await bus.close()


async def _each(way: Callable[[int], Awaitable[None]]) -> float:
    begin = time.perf_counter()
    for i in range(COUNT):
        await way(i)
    return (time.perf_counter() - begin) / COUNT * 1e6


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
