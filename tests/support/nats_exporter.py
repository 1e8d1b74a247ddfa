"""What natsio/prometheus-nats-exporter makes of a nats-server, as far as dashboard and rules ask: same names, labels.

The exporter is an image and no package, so without an engine this stands for it. The numbers are the server's own.
"""

from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

SERVER = "nats-1"
_SERVER_LABELS = ("server_id", "server_name", "cluster", "domain", "meta_leader", "is_meta_leader")
_STREAM_LABELS = (
    *_SERVER_LABELS,
    "account",
    "account_id",
    "stream_name",
    "stream_leader",
    "is_stream_leader",
)


class NatsExporter:
    """Serves ``/metrics`` about the server with this ``monitor``, like ``-varz -jsz=streams nats-1,<monitor>``."""

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor
        self._runner: web.AppRunner | None = None
        self.target = ""

    async def start(self) -> None:
        """Take any free port."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.target = f"{host}:{port}"

    async def stop(self) -> None:
        """Serve no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        async with aiohttp.ClientSession(self._monitor) as http:
            varz = await (await http.get("/varz")).json()
            jsz = await (await http.get("/jsz?streams=true")).json()
        return web.Response(body=generate_latest(_registry(varz, jsz)))


def _registry(varz: dict[str, Any], jsz: dict[str, Any]) -> CollectorRegistry:
    registry = CollectorRegistry()
    for key, value in varz.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            Gauge(f"gnatsd_varz_{key}", key, ("server_id",), registry=registry).labels(SERVER).set(value)
    name = varz["server_name"]
    server = (SERVER, name, "", jsz["config"].get("domain", ""), "", "true")
    for key, value in {
        "total_streams": jsz["streams"],
        "total_messages": jsz["messages"],
        "total_message_bytes": jsz["bytes"],
        "max_memory": jsz["config"]["max_memory"],
        "max_storage": jsz["config"]["max_storage"],
    }.items():
        Gauge(f"jetstream_server_{key}", key, _SERVER_LABELS, registry=registry).labels(*server).set(value)
    sizes = Gauge("jetstream_stream_total_bytes", "Bytes", _STREAM_LABELS, registry=registry)
    for account in jsz["account_details"]:
        for stream in account["stream_detail"]:
            labels = (*server, account["name"], account["id"], stream["name"], "", "true")
            sizes.labels(*labels).set(stream["state"]["bytes"])
    return registry
