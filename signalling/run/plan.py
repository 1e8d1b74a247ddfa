"""Check what ``signalling up`` is to run before anything is started."""

import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path


class PlanError(Exception):
    """Raised if the plan cannot be run; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Describes the number of instances and their ports. ``nats``: existing servers instead of embedded ones."""

    host: str = "127.0.0.1"
    port: int = 8001
    gateways: int = 1
    callcores: int = 1
    presences: int = 1
    nats: str | None = None
    nats_nodes: int = 1
    data: Path | None = None
    with_parent: bool = False
    """True if the system stops when its parent process has ended."""
    ready_seconds: float = 60.0
    """Limit of the whole start, in seconds."""
    commands: dict[str, list[str]] = field(default_factory=dict)
    """Maps a service to its command, where it is not ``python -m services.<service>``; for tests."""

    def command(self, service: str) -> list[str]:
        """Return the command that starts one instance of ``service``."""
        return self.commands.get(service, [sys.executable, "-m", f"services.{service}"])


def gateway_ports(plan: Plan) -> list[int]:
    """Return a free port for each gateway: ``port``, ``port`` + 1, …; any free ones for port 0.

    Raises :class:`PlanError` naming the port that is taken.
    """
    held: list[socket.socket] = []
    ports: list[int] = []
    family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
    try:
        for i in range(plan.gateways):
            probe = socket.socket(family)
            held.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wanted = plan.port + i if plan.port else 0
            try:
                probe.bind((plan.host, wanted))
                probe.listen()
            except (OSError, OverflowError) as error:
                raise PlanError(f"port {wanted} on {plan.host} cannot be used: {_reason(error)}") from None
            ports.append(probe.getsockname()[1])
    finally:
        for probe in held:
            probe.close()
    return ports


def metrics_ports(count: int, host: str, taken: list[int]) -> list[int]:
    """Return free ports at ``host`` for Prometheus, none of ``taken``. Raises :class:`PlanError`."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            held.append(probe)
            try:
                probe.bind((host, 0))
            except OSError as error:
                raise PlanError(f"METRICS_HOST={host} cannot be used: {_reason(error)}") from None
            if (port := probe.getsockname()[1]) not in taken:
                ports.append(port)
    finally:
        for probe in held:
            probe.close()
    return ports


def _reason(error: OSError | OverflowError) -> str:
    """Return the reason of an error without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
