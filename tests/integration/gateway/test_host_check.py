"""Requests by names that are not the gateway's: DNS rebinding makes a page's own name lead to loopback."""

import pytest
from pydantic import ValidationError

from services.gateway.settings import Settings
from tests.integration.gateway.conftest import Start
from tests.integration.gateway.test_edges import said, tcp

PATH = "/socket.io/?EIO=4&transport="
REFUSED = b"Not a host that may be asked for: see ALLOWED_HOSTS"
FOREIGN = ("evil.example", "evil.example:8001", "192.168.1.7", "localhost.evil.example", "127.0.0.1.evil.example",
           "[::2]", "", "localhost:x", "evil@localhost", "::1")  # fmt: skip
LOOPBACK = ("localhost", "LocalHost:1", "localhost.", "127.0.0.1:8001", "127.9.9.9", "[::1]", "[::1]:8001")


async def _asked(url: str, host: str, method: str = "GET", more: str = "") -> tuple[int, bytes]:
    head = f"{method} {PATH}polling{more} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\r\n"
    status, _, body = await said(url, head)
    return status, body


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost"])
async def test_on_loopback_only_loopback_may_be_asked_for(gateway: Start, bind: str) -> None:
    url = await gateway(host=bind)
    for host in FOREIGN:
        for method, more in (("GET", ""), ("POST", "&sid=x"), ("OPTIONS", "")):
            assert await _asked(url, host, method, more) == (400, REFUSED), host
    for host in LOOPBACK:
        status, body = await _asked(url, host)
        assert (status, body[:1]) == (200, b"0"), host


async def test_a_request_without_a_host_names_none(gateway: Start) -> None:
    status, _, body = await said(await gateway(), f"GET {PATH}polling HTTP/1.0\r\n\r\n")
    assert (status, body) == (400, REFUSED)


@pytest.mark.parametrize(("host", "status"), [("evil.example", b"400"), ("localhost", b"101")])
async def test_a_websocket_is_no_way_around(gateway: Start, host: str, status: bytes) -> None:
    url = await gateway()
    async with tcp(url) as (reader, writer):
        writer.write(
            f"GET {PATH}websocket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert (await reader.readline()).split()[1] == status


async def test_what_the_gateway_is_called_besides(gateway: Start) -> None:
    url = await gateway(allowed_hosts="Calls.example, [fd00::1]")
    for host in ("calls.example", "CALLS.example:443", "[fd00::1]:1", "localhost"):
        assert (await _asked(url, host))[0] == 200, host
    assert await _asked(url, "evil.example") == (400, REFUSED)


async def test_the_check_can_be_switched_off(gateway: Start) -> None:
    assert (await _asked(await gateway(allowed_hosts="*"), "evil.example"))[0] == 200


async def test_elsewhere_it_checks_what_it_has_been_told(gateway: Start) -> None:
    elsewhere = {"host": "0.0.0.0", "auth_mode": "none"}
    assert (await _asked(await gateway(**elsewhere), "gateway-1:8001"))[0] == 200
    url = await gateway(**elsewhere, allowed_hosts="gateway-1")
    assert (await _asked(url, "gateway-1:8001"))[0] == 200
    assert (await _asked(url, "127.0.0.1"))[0] == 200
    assert await _asked(url, "evil.example") == (400, REFUSED)


async def test_health_is_told_by_any_name(gateway: Start) -> None:
    status, _, _ = await said(await gateway(), "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n")
    assert status == 200


@pytest.mark.parametrize(
    "wrong", ["https://calls.example", "calls.example:443", "a b", "::1", "calls.example/x"]
)
def test_what_is_no_name_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ValidationError, match="names and addresses"):
        Settings(allowed_hosts=wrong)  # type: ignore[arg-type]
