"""Two gateways, two callcores and a presence on a nats-server, each a process of its own."""

import asyncio
import itertools
from pathlib import Path

from nats.aio.msg import Msg

from shared import subjects
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.support.cluster import Gateway
from tests.support.service_process import Service

PATIENCE = 30.0


class System:
    """The processes: start, stop, and each by its kind."""

    def __init__(self, nats: EmbeddedNats, folder: Path) -> None:
        self.nats = nats
        env = {
            "NATS_URL": nats.url,
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "info",
            "DRAIN_SECONDS": "0",
            "RATE_LIMIT": "off",  # more candidates than a call may have
        }
        self.gateways = [Gateway(f"gw-{n}", env, folder) for n in (1, 2)]
        self.callcores = [Service("callcore", f"cc-{n}", env, folder) for n in (1, 2)]
        self.services = [*self.gateways, *self.callcores, Service("presence", "pr-1", env, folder)]

    async def start(self) -> None:
        for service in self.services:
            service.start()
        await self._all_heard()
        async with asyncio.timeout(PATIENCE):
            for gateway in self.gateways:
                while not await asyncio.to_thread(gateway.ready):
                    await asyncio.sleep(0.05)

    async def _all_heard(self) -> None:
        """Wait for every callcore and presence: one that starts later makes streams anew that a test has deleted."""
        silent = {service.name for service in self.services if service not in self.gateways}
        bus = await Bus.connect(self.nats.url, name="test")
        changed = asyncio.Event()

        async def on_beat(msg: Msg) -> None:
            silent.discard(subjects.parse_live(msg.subject)[1])
            changed.set()

        try:
            await bus.subscribe(subjects.live("*", "*"), on_beat)
            async with asyncio.timeout(PATIENCE):
                while silent:
                    changed.clear()
                    await changed.wait()
        finally:
            await bus.close()

    async def stop(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in self.services))


def differences(numbers: list[int], sent: int) -> str:
    """Describe how the received numbers differ from 0 to ``sent`` - 1."""
    missing = sorted(set(range(sent)) - set(numbers))
    wrong = [(a, b) for a, b in itertools.pairwise(numbers) if b != a + 1]
    return f"of {sent}: {len(missing)} missing {missing[:20]}, steps that are none {wrong[:20]}"
