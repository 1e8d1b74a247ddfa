"""Clusters that tests share, by their settings."""

import pytest

from tests.support.cluster import RING_SECONDS, Cluster

KEPT = 3
"""Clusters that run at a time: each takes a few hundredths of a processor, whether anybody uses it or not."""


class Clusters:
    """Starts a cluster when it is asked for, and keeps it until others are asked for more recently."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: dict[tuple[object, ...], Cluster] = {}

    async def get(self, shape: str, *, ring_seconds: float = RING_SECONDS, **settings: str) -> Cluster:
        """The cluster of ``shape`` (gateways x callcores x presences, x NATS servers) with these settings."""
        key = (shape, ring_seconds, *sorted(settings.items()))
        cluster = self._running.pop(key, None)
        if cluster is None:
            while len(self._running) >= KEPT:
                await self.drop(next(iter(self._running.values())))
            gateways, callcores, presences, *nodes = (int(count) for count in shape.split("x"))
            cluster = Cluster(
                self._folders.mktemp(f"cluster-{shape}"),
                gateways=gateways,
                callcores=callcores,
                presences=presences,
                nats_nodes=nodes[0] if nodes else 1,
                ring_seconds=ring_seconds,
                **settings,
            )
            await cluster.start()
        self._running[key] = cluster
        return cluster

    async def drop(self, cluster: Cluster) -> None:
        """Stop a cluster that a test has broken, so that the next one gets a new one."""
        self._running = {key: other for key, other in self._running.items() if other is not cluster}
        await cluster.stop()

    async def stop(self) -> None:
        """Stop all of them."""
        for cluster in self._running.values():
            await cluster.stop()
