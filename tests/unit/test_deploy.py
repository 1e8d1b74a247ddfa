"""What Prometheus is told of fits what compose.yaml and the image say, and nothing of it is published."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()
PROMETHEUS = (ROOT / "deploy/prometheus/prometheus.yml").read_text()


def _blocks() -> dict[str, str]:
    """Service → its part of compose.yaml."""
    services = COMPOSE[COMPOSE.index("\nservices:\n") : COMPOSE.index("\nnetworks:\n")]
    return dict(re.findall(r"^  ([a-z0-9-]+):\n((?:    .*\n|\n|  #.*\n)*)", services, re.M))


def test_every_job_is_a_service_at_the_port_that_it_has() -> None:
    (port,) = re.findall(r"METRICS_PORT=(\d+)", (ROOT / "Dockerfile").read_text())
    jobs = re.findall(
        r"job_name: (\S+)\n    dns_sd_configs: \[\{names: \[(\S+)\], type: A, port: (\d+),", PROMETHEUS
    )
    assert jobs == [
        *((name, name, port) for name in ("gateway", "callcore", "presence")),
        ("nats", "nats-exporter", "7777"),
    ]
    for _, name, _ in jobs:
        assert name in _blocks()


def test_who_reads_is_where_those_are_that_are_read_and_nowhere_else() -> None:
    networks = {
        name: re.findall(r"^    networks: [\[{]([^\]}]*)", block, re.M) for name, block in _blocks().items()
    }
    assert networks["prometheus"] == ["bus, metrics"]
    assert networks["grafana"] == ["metrics"]
    assert networks["nats-exporter"] == ["bus"]
    assert "bus: {internal: true}" in COMPOSE


def test_only_doors_are_published() -> None:
    published = {name for name, block in _blocks().items() if re.search(r"^    ports:", block, re.M)}
    assert published == {"proxy", "proxy-tls", "turn", "grafana"}
    assert "${PUBLISH_GRAFANA:-127.0.0.1:3000}:3000" in COMPOSE
    for file in (ROOT / "deploy/haproxy").iterdir():
        assert "9464" not in file.read_text()


def test_the_profile_brings_all_of_it() -> None:
    inside = {
        name for name, block in _blocks().items() if re.search(r"^    profiles: \[metrics\]", block, re.M)
    }
    assert inside == {"prometheus", "nats-exporter", "grafana"}
