"""The profiles: three NATS servers that may lose one, TLS at the door, a TURN server that relays for who may."""

import asyncio
import json
import secrets
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from services.gateway.auth.turn_credentials import IceServers
from shared.clock import now_ms
from signalling.nats_users import MONITOR
from tests.stack.images import Images
from tests.stack.phones import Talk
from tests.stack.stack import Stack
from tests.support.cluster import free_port
from tests.support.turn_client import Refused, TurnClient

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

PAIRS = 6
NODES = ("nats", "nats-2", "nats-3")


class Everything(Stack):
    """A stack with all profiles and two of each service, and what a client needs to know of it."""

    def __init__(self, folder: Path, built: Images) -> None:
        self.tls_port, self.turn_port, self.turn_secret = free_port(), free_port(), secrets.token_hex(16)
        self.turn_url = f"turn:127.0.0.1:{self.turn_port}"
        certificates = folder / "certificates"
        certificates.mkdir()
        self.served = certificates / "localhost.pem"
        self.certificate = _certificate(folder, self.served)
        # Who runs the tests owns these folders; the user of the proxy has to get through.
        for above in (certificates, folder, *list(folder.parents)[:2]):
            above.chmod(0o755)
        super().__init__(
            folder,
            built,
            COMPOSE_PROFILES="cluster,tls,turn",
            NATS_TOPOLOGY="cluster",
            KV_REPLICAS="3",
            SWEEP_SECONDS="3",
            CERTS=str(certificates),
            PUBLISH_TLS=f"127.0.0.1:{self.tls_port}",
            PUBLISH_TURN=f"127.0.0.1:{self.turn_port}",
            TURN_SECRET=self.turn_secret,
            TURN_URLS=self.turn_url,
            TURN_MAX_PORT="49165",
        )


def _certificate(folder: Path, served: Path) -> Path:
    """A certificate of localhost by itself; ``served`` gets it with its key, as the proxy wants it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    served.write_text(certificate.read_text() + key.read_text())
    return certificate


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def everything(built: Images, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Everything]:
    stack = Everything(tmp_path_factory.mktemp("profiles"), built)
    try:
        await stack.up(gateway=2, callcore=2, presence=2)
        # Who comes before the three have found each other ends and is started again.
        stack.allowed = ("cannot start",)
        stack.check_logs()
        yield stack
    finally:
        await stack.down()


async def test_everything_is_kept_three_times(everything: Everything) -> None:
    async with everything.access.connect(MONITOR) as client:
        streams = await client.jetstream().streams_info()
    assert {"DELIVER", "EVENTS", "KV_calls", "KV_sessions"} <= {stream.config.name for stream in streams}
    for stream in streams:
        assert stream.config.num_replicas == 3, stream.config.name
        assert stream.cluster is not None and stream.cluster.replicas is not None
        assert len(stream.cluster.replicas) == 2, stream.config.name


async def test_calls_go_on_while_any_one_nats_server_is_replaced(everything: Everything) -> None:
    talk = Talk(everything, "everything")
    await talk.begin(PAIRS)
    for node in NODES:
        victim = everything.one(node)
        everything.kill(victim)
        await everything.restarted(victim)
        await everything.ready()
        await talk.everybody_spoke()
    await talk.finish(exactly=True)
    everything.allowed = ("reconciled: ",)
    everything.check_logs()


async def test_clients_may_come_over_tls(everything: Everything) -> None:
    context = ssl.create_default_context(cafile=str(everything.certificate))
    url = f"https://localhost:{everything.tls_port}/socket.io/?EIO=4&transport="
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        async with http.get(
            f"{url}polling", headers={"Origin": f"https://localhost:{everything.tls_port}"}
        ) as answer:
            assert answer.status == 200 and "Strict-Transport-Security" in answer.headers
            sid = json.loads((await answer.text())[1:])["sid"]
        async with http.ws_connect(f"{url}websocket&sid={sid}") as socket:
            await socket.send_str("2probe")
            assert (await socket.receive_str(timeout=5)) == "3probe"


async def test_a_new_certificate_breaks_no_connection(everything: Everything) -> None:
    url = f"https://localhost:{everything.tls_port}/socket.io/?EIO=4&transport=websocket"

    def trusting() -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=str(everything.certificate))
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))

    async with trusting() as before, before.ws_connect(url) as socket:
        assert (await socket.receive_str(timeout=5)).startswith("0{")
        await socket.send_str("40")
        assert (await socket.receive_str(timeout=5)).startswith("40{")
        everything.certificate = _certificate(everything.folder, everything.served)
        await everything.compose("kill", "-s", "USR2", "proxy-tls")
        async with asyncio.timeout(20), trusting() as after:
            while True:
                try:
                    async with after.get(url.replace("websocket", "polling")) as answer:
                        assert answer.status == 200
                        break
                except aiohttp.ClientConnectorCertificateError:
                    await asyncio.sleep(0.1)  # still the old one
        await socket.send_str('420["user:join",{}]')
        while not (frame := await socket.receive_str(timeout=5)).startswith("430"):
            assert frame.startswith("42") or frame == "2"
        assert "user_id_required" in frame
    assert all(container.healthy for container in everything.containers("proxy-tls"))


async def test_every_container_is_asked_whether_it_is_well(everything: Everything) -> None:
    assert {c.service: c.state["Health"]["Status"] for c in everything.containers()} == dict.fromkeys(
        ("proxy", "proxy-tls", "gateway", "callcore", "presence", *NODES, "turn"), "healthy"
    )


async def test_turn_relays_for_whom_a_gateway_vouches(everything: Everything) -> None:
    issued = IceServers([], [everything.turn_url], everything.turn_secret, 600, now_ms).issue("alice")
    name, password = issued.servers[0]["username"], issued.servers[0]["credential"]
    with (
        closing(TurnClient(everything.turn_port, name, "wrong")) as stranger,
        pytest.raises(Refused, match="401"),
    ):
        await asyncio.to_thread(stranger.allocate)
    with closing(TurnClient(everything.turn_port, name, password)) as client:
        assert 49160 <= await asyncio.to_thread(client.allocate) <= 49165
        with pytest.raises(Refused, match="403"):
            await asyncio.to_thread(client.permit, "10.0.0.1")
