"""Who hears whose beats."""

import asyncio

from shared.messaging.membership import Beacon, Membership
from shared.nats.connection import Bus


async def test_beats_of_others_are_not_even_delivered(bus: Bus, nats_url: str) -> None:
    listener = await Bus.connect(nats_url, name="listener")
    members = Membership(listener, "callcore", "presence")
    await members.start()
    beacons = [Beacon(bus, service, f"{service}-1", "0") for service in ("callcore", "presence", "gateway")]
    for beacon in beacons:
        await beacon.start()
    async with asyncio.timeout(5):
        while not (members.alive("callcore") and members.alive("presence")):
            await asyncio.sleep(0.01)
    before = listener.client.stats["in_msgs"]
    for _ in range(50):
        beacons[2]._send()
    await bus.flush()
    await listener.flush()
    assert listener.client.stats["in_msgs"] - before < 10
    for beacon in beacons:
        await beacon.stop()
    await members.stop()
    await listener.close()
