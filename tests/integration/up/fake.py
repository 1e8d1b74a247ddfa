"""A service that does nothing but say that it is there: ``python -m tests.integration.up.fake <service> <trace>``.

It appends what happens to it to the file ``trace``. ``FAKE_<SERVICE>`` changes what it does: ``deaf`` ignores SIGTERM,
``refuse`` ends with the status for wrong settings, ``mute`` never says that it is ready.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from shared.messaging.membership import Beacon
from shared.nats.connection import Bus
from shared.service import health
from shared.service.settings import EXIT_USAGE, ServiceSettings


async def main(service: str, trace: Path) -> None:
    instance, manner = os.environ["INSTANCE_ID"], os.environ.get(f"FAKE_{service.upper()}", "")
    if manner == "refuse":
        print("PORT=x: a number is needed")
        sys.exit(EXIT_USAGE)

    def note(what: str) -> None:
        with trace.open("a") as out:
            out.write(f"{what} {service} {os.getpid()}\n")

    stop = asyncio.Event()

    def terminate() -> None:
        note("asked")
        if manner != "deaf":
            stop.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    note("born")
    settings = ServiceSettings()
    bus = await Bus.connect(settings.nats_url, name=instance, inboxes=service, login=settings.nats_login())
    beacon = Beacon(bus, service, instance, "0")
    if manner != "mute":
        await beacon.start()
    http: web.AppRunner | None = None
    if service == "gateway":
        app = web.Application()
        health.add_routes(app, lambda: ["not today"] if manner == "mute" else [])
        http = web.AppRunner(app, access_log=None)
        await http.setup()
        await web.TCPSite(http, os.environ["HOST"], int(os.environ["PORT"])).start()
    print(f"hello from {service}")
    await stop.wait()
    await beacon.stop()
    if http is not None:
        await http.cleanup()
    await bus.close()
    note("gone")
    print(f"goodbye from {service}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
