"""Measure CPU and wake-ups of the servers and of the clients, between two moments."""

import time

from bench import measure
from bench.client import ServerError
from bench.measure import Figures, Roots

CLIENT = "client"


class Cost:
    """Measures CPU of the servers and of this process from its construction on."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._begin = time.perf_counter()
        self._client = time.process_time()
        self._machine, self._steal = measure.machine_seconds()
        self._wakeups = measure.wakeups(roots)
        self._servers = measure.cpu_seconds(roots)

    def per(self, count: int) -> Figures:
        """Return microseconds for each of ``count``, in total, by role, and of the client; wake-ups; busy cores."""
        if count <= 0:
            raise ServerError("nothing came back in the time that was measured")
        seconds = time.perf_counter() - self._begin
        client = time.process_time() - self._client
        now = measure.cpu_seconds(self._roots)
        machine, steal = measure.machine_seconds()
        woken = measure.wakeups(self._roots)
        slept = {role: woken[role] - before for role, before in self._wakeups.items()}
        used = {role: now[role] - before for role, before in self._servers.items()}
        return {
            "cpu_us": sum(used.values()) / count * 1e6,
            **{f"cpu_us.{role}": seconds / count * 1e6 for role, seconds in used.items()},
            f"cpu_us.{CLIENT}": client / count * 1e6,
            "wakeups": sum(slept.values()) / count,
            **{f"wakeups.{role}": times / count for role, times in slept.items()},
            "per_s": count / seconds,
            "cores": sum(used.values()) / seconds,
            f"cores.{CLIENT}": client / seconds,
            "cores.others": max(0.0, machine - self._machine - sum(used.values()) - client) / seconds,
            "cores.stolen": (steal - self._steal) / seconds,
        }
