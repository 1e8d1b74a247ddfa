"""Pages of other sites that make a visitor's browser open connections, and requests that are refused and counted."""

import json
from collections import Counter

import aiohttp
import pytest

from shared.observability.limit_hits import LimitHits
from tests.integration.gateway.conftest import Services, Start
from tests.integration.gateway.test_edges import said


@pytest.fixture
def hits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()
    monkeypatch.setattr(LimitHits, "hit", lambda _, limit: found.update([limit]))
    return found


PATH = "/socket.io/?EIO=4&transport=polling"
CROSS = "Sec-Fetch-Site: cross-site\r\n"


async def handshake(url: str, headers: str, path: str = PATH) -> tuple[int, dict[str, str], bytes]:
    return await said(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")


@pytest.mark.parametrize("mode", ["no-cors", "navigate", "same-origin", "what comes next"])
async def test_a_page_cannot_open_connections_by_what_it_embeds(
    gateway: Start, services: Services, hits: Counter[str], mode: str
) -> None:
    """Not one of them counts: neither as a connection of the visitor's address, nor as one that has not joined."""
    url = await gateway(connections_per_address=1, unjoined_max=1, drain_seconds=0)
    for number in range(20):
        status, head, body = await handshake(url, f"{CROSS}Sec-Fetch-Mode: {mode}\r\n")
        assert (status, body) == (403, b"Not for pages of other sites to embed"), number
        assert head["connection"] == "close", "nor as a bare connection"
    assert hits == {"cross_site": 20}
    status, _, body = await handshake(url, "")
    assert (status, body[:1]) == (200, b"0")


@pytest.mark.parametrize(
    "headers",
    [
        "",
        f"{CROSS}Sec-Fetch-Mode: cors\r\nOrigin: https://app.example\r\n",
        f"{CROSS}Origin: https://app.example\r\n",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\n",
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\nOrigin: https://app.example\r\n",
        "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n",
    ],
)
async def test_clients_connect_as_ever(gateway: Start, headers: str) -> None:
    status, head, body = await handshake(
        await gateway(client_url="https://app.example", drain_seconds=0), headers
    )
    assert (status, body[:1]) == (200, b"0")
    assert ("access-control-allow-origin" in head) == ("Origin" in headers)


async def test_a_websocket_of_an_allowed_page_connects(gateway: Start) -> None:
    url = await gateway(client_url="https://app.example", drain_seconds=0)
    headers = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "websocket",
        "Origin": "https://app.example",
    }
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url + PATH.replace("polling", "websocket"), headers=headers) as ws,
    ):
        assert json.loads((await ws.receive_str())[1:])["sid"]


async def test_refused_hosts_and_origins_are_counted(gateway: Start, hits: Counter[str]) -> None:
    url = await gateway(drain_seconds=0)
    for headers in ("Host: evil.example", "Host: localhost\r\nOrigin: https://evil.example"):
        status, _, _ = await said(url, f"GET {PATH} HTTP/1.1\r\n{headers}\r\n\r\n")
        assert status == 400
    assert hits == {"host": 1, "origin": 1}
