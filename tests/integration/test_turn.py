"""coturn, on the configuration of ``deploy``: who may use it, and what it relays to."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support import coturn
from tests.support.coturn import Coturn
from tests.support.turn_client import Refused, TurnClient

pytestmark = pytest.mark.skipif(not coturn.installed(), reason="coturn is not installed")

KEPT_OUT = {
    4: (
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
        "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255",
    ),
    6: (
        "::", "::1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1",
        "2001:db8::1", "2002:a00:1::1", "3fff::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1",
    ),
}  # fmt: skip
LET_THROUGH = {4: ("8.8.8.8", "172.32.0.1", "1.1.1.1"), 6: ("2606:4700:4700::1111", "2a00:1450::1")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    server = Coturn(tmp_path_factory.mktemp("coturn"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _client(server: Coturn, seconds: int = 600, *, tail: str = "") -> TurnClient:
    told = server.credentials(seconds)
    return TurnClient(server.port, told["username"], told["credential"] + tail)


def test_a_clients_credentials_are_good(server: Coturn) -> None:
    with closing(_client(server)) as client:
        assert 49160 <= client.allocate() <= 49259


@pytest.mark.parametrize(("seconds", "tail"), [(-1, ""), (600, "x")])
def test_expired_and_wrong_ones_are_not(server: Coturn, seconds: int, tail: str) -> None:
    with closing(_client(server, seconds, tail=tail)) as client, pytest.raises(Refused) as refused:
        client.allocate()
    assert refused.value.code == 401


@pytest.mark.parametrize("version", [4, 6])
def test_it_is_no_way_into_private_networks(server: Coturn, version: int) -> None:
    with closing(_client(server)) as client:
        client.allocate(version=version)
        for peer in LET_THROUGH[version]:
            client.permit(peer)
        for peer in KEPT_OUT[version]:
            with pytest.raises(Refused, match="403"):
                client.permit(peer)
