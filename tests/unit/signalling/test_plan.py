"""What is going to run, and the ports for it."""

import socket
import sys

import pytest

from signalling.run.plan import Plan, PlanError, gateway_ports, metrics_ports
from signalling.run.process import describe


def test_a_service_is_a_module() -> None:
    assert Plan().command("gateway") == [sys.executable, "-m", "services.gateway"]
    assert Plan(commands={"gateway": ["true"]}).command("gateway") == ["true"]


def test_any_free_ports_are_different_ones() -> None:
    ports = gateway_ports(Plan(port=0, gateways=8))
    assert len(set(ports)) == 8 and all(ports)


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PlanError, match=f"port {port} on 127.0.0.1 cannot be used: Address already in use"
        ):
            gateway_ports(Plan(port=port))


def test_ports_of_metrics_are_free_and_nobody_elses() -> None:
    taken = gateway_ports(Plan(port=0, gateways=8))
    ports = metrics_ports(8, "127.0.0.1", taken)
    assert len({*ports, *taken}) == 16
    with pytest.raises(
        PlanError, match=r"METRICS_HOST=192\.0\.2\.1 cannot be used: Cannot assign requested address"
    ):
        metrics_ports(1, "192.0.2.1", [])
    with pytest.raises(PlanError, match=r"METRICS_HOST=no-such-host\.invalid cannot be used"):
        metrics_ports(1, "no-such-host.invalid", [])


def test_ports_end_at_65535() -> None:
    with pytest.raises(PlanError, match=r"port 65536 on 127\.0\.0\.1"):
        gateway_ports(Plan(port=65535, gateways=2))


@pytest.mark.parametrize(("status", "words"), [(3, "status 3"), (-9, "SIGKILL"), (0, "status 0")])
def test_how_a_process_ended(status: int, words: str) -> None:
    assert describe(7, status) == f"pid 7, {words}"
