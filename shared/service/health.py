"""Serve ``/healthz`` (alive) and ``/readyz`` (able to work), the same two paths in every service."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from shared.nats.connection import Bus
from shared.observability import response_headers

Check = Callable[[], list[str]]
"""Returns what the service lacks, in words; empty when it is ready."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(app: web.Application, check: Check, impaired: Check = list) -> None:
    """Add ``GET /healthz``, 200 while the event loop runs, and ``GET /readyz``, 503 with the reasons while not ready.

    ``impaired``: other faults of a ready service, which only the answer lists.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def readyz(_: web.Request) -> web.Response:
        missing = check()
        said: dict[str, object] = {"ok": not missing, "missing": missing}
        if wrong := [reason for reason in impaired() if reason not in missing]:
            said["impaired"] = wrong
        return web.json_response(said, status=503 if missing else 200)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


def missing(bus: Bus) -> list[str]:
    """Return what a service without clients lacks: NATS, or room in a stream that it writes to."""
    return bus.full.reasons() if bus.connected else ["NATS is out of reach"]


async def serve(host: str, port: int, bus: Bus) -> web.AppRunner:
    """Serve health over HTTP for a service without an HTTP server: ready while NATS is there and stores. Port 0: none.

    ``cleanup()`` the runner to stop it. Raises ``OSError`` for a port that is taken.
    """
    app = web.Application()
    app.on_response_prepare.append(response_headers.on_prepare)
    add_routes(app, lambda: missing(bus))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    if port:
        await web.TCPSite(runner, host, port).start()
    return runner
