"""Each image alone, and with a NATS server: how it starts, what it says of itself, how it ends."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.stack.images import OURS, Images

pytestmark = pytest.mark.timeout(600)

SERVICES = ("gateway", "callcore", "presence")
EXIT_USAGE, EXIT_UNAVAILABLE = 2, 69
WAIT_SECONDS = 40.0
_GET = """
import urllib.error, urllib.request
try:
    answer = urllib.request.urlopen("http://127.0.0.1:8001{}", timeout=3)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""


@pytest.fixture(scope="module")
def network(built: Images) -> Iterator[Network]:
    # The cleaner of testcontainers is an image of its own, which may not be there; all is cleaned up here.
    testcontainers_config.ryuk_disabled = True
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def nats_url(built: Images, network: Network) -> Iterator[str]:
    """A NATS server with JetStream and nothing of ours."""
    server = DockerContainer(built.nats, entrypoint="nats-server").with_command("-js -sd /tmp/js")
    with server.with_network(network).with_network_aliases("broker"):
        yield "nats://broker:4222"


@pytest.fixture(scope="module", autouse=True)
def lonely(network: Network) -> Iterator[list[DockerContainer]]:
    """Each service without NATS, started first: they take ten seconds to give up."""
    with ExitStack() as running:
        yield [
            running.enter_context(_service(kind, network, NATS_URL="nats://127.0.0.1:4")) for kind in SERVICES
        ]


def _service(kind: str, network: Network, **env: str) -> DockerContainer:
    container = DockerContainer(OURS, read_only=True, cap_drop=["ALL"]).with_command(f"services.{kind}")
    if kind == "gateway":
        container = container.with_env("AUTH_MODE", "none")
    for key, value in env.items():
        container = container.with_env(key, value)
    return container.with_network(network)


def _status(container: DockerContainer) -> int:
    return int(container.get_wrapped_container().wait(timeout=WAIT_SECONDS)["StatusCode"])


def _get(container: DockerContainer, path: str) -> tuple[int, dict[str, Any]]:
    code, out = container.get_wrapped_container().exec_run(["python", "-c", _GET.format(path)])
    assert code == 0, out
    status, _, body = out.decode().partition(" ")
    return int(status), json.loads(body)


def _healthy(container: DockerContainer) -> None:
    wrapped = container.get_wrapped_container()
    until = time.monotonic() + WAIT_SECONDS
    while wrapped.attrs["State"].get("Health", {}).get("Status") != "healthy":
        assert time.monotonic() < until and wrapped.status != "exited", wrapped.logs().decode()
        time.sleep(0.2)
        wrapped.reload()


def test_a_wrong_setting_is_named(network: Network) -> None:
    with _service("callcore", network, RING_TIMEOUT_SECONDS="soon") as container:
        assert _status(container) == EXIT_USAGE
        assert b"RING_TIMEOUT_SECONDS=soon" in container.get_wrapped_container().logs()


def test_with_nats_each_alone_is_healthy_and_says_what_it_misses(network: Network, nats_url: str) -> None:
    """The gateway among them only while presence and call control are not there yet."""
    with _service("gateway", network, NATS_URL=nats_url) as gateway:
        _healthy(gateway)
        status, body = _get(gateway, "/readyz")
        assert status == 503 and {"no presence is there", "no callcore is there"} <= set(body["missing"])


def test_told_to_stop_they_end_well(network: Network, nats_url: str) -> None:
    with ExitStack() as running:
        services = [
            running.enter_context(_service(kind, network, NATS_URL=nats_url, DRAIN_SECONDS="0"))
            for kind in SERVICES
        ]
        for service in services:
            _healthy(service)
        for service in services[1:]:
            assert _get(service, "/readyz") == (200, {"ok": True, "missing": []})
        for service in services:
            service.get_wrapped_container().kill("SIGTERM")
        assert [_status(service) for service in services] == [0, 0, 0]


def test_without_nats_they_end_and_say_so(lonely: list[DockerContainer]) -> None:
    assert [_status(container) for container in lonely] == [EXIT_UNAVAILABLE] * 3
    for container in lonely:
        assert b"does not answer" in container.get_wrapped_container().logs()
