"""``signalling up``: the whole system on this machine, every service its own process, NATS included."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import aiohttp
import nats
import nats.errors

from shared import subjects
from shared.contracts.liveness import Beat
from signalling.child import Child, Say
from signalling.nats_server import EmbeddedNats, NatsServerError
from signalling.plan import Plan, PlanError, gateway_ports

READY_SECONDS = 60.0
STOP_SECONDS = 8.0
"""For all services together; with nats-server after them, the whole stays within ten."""
_PREFIX = "signalling-"


def say(line: str) -> None:
    """One line for the person in front of it."""
    print(line, flush=True)


class Up:
    """Runs a plan until it is told to stop."""

    def __init__(self, plan: Plan, *, say: Say = say) -> None:
        self._plan = plan
        self._say = say
        self._stop = asyncio.Event()
        self._hurry = False
        self.nats: EmbeddedNats | None = None
        self.children: dict[str, list[Child]] = {"presence": [], "callcore": [], "gateway": []}

    def stop(self) -> None:
        """Stop in good order; the second time, at once."""
        self._hurry = self._stop.is_set()
        self._stop.set()
        if self._hurry:
            for child in self._all():
                child.signal(signal.SIGKILL)

    async def run(self) -> None:
        """Start, say when it is ready, run, stop. Raises :class:`PlanError` if it cannot be started."""
        ports = gateway_ports(self._plan)
        with _folder(self._plan) as folder:
            keeper: asyncio.Task[None] | None = None
            try:
                url = await self._nats_url(folder)
                if self.nats is not None:
                    keeper = asyncio.create_task(self._keep_nats(self.nats))
                self._start_services(url, ports)
                await self._until_ready(url, ports)
                await self._wait()
            finally:
                await self._stop_all()
                if keeper is not None:
                    keeper.cancel()
                    await asyncio.gather(keeper, return_exceptions=True)
                if self.nats is not None:
                    await asyncio.to_thread(self.nats.stop)
        self._say("stopped")

    # --- starting ---

    async def _nats_url(self, folder: Path) -> str:
        if self._plan.nats is not None:
            try:
                probe = await nats.connect(self._plan.nats, connect_timeout=3, allow_reconnect=False)
                await probe.jetstream().account_info()
                await probe.close()
            except (OSError, ValueError, nats.errors.Error) as error:
                reason = str(error).removeprefix("nats: ") or type(error).__name__
                raise PlanError(f"NATS at {self._plan.nats} cannot be used: {reason}") from None
            return self._plan.nats
        self.nats = EmbeddedNats(folder)
        try:
            await asyncio.to_thread(self.nats.start)
        except (NatsServerError, OSError) as error:
            raise PlanError(str(error)) from None
        return self.nats.url

    async def _keep_nats(self, server: EmbeddedNats) -> None:
        """A nats-server that dies is started again, on its port and its store."""
        while True:
            await asyncio.sleep(0.2)
            if server.pid is None and not self._stop.is_set():
                self._say("nats-server ended; starting it again")
                try:
                    await asyncio.to_thread(server.start)
                except (NatsServerError, OSError) as error:
                    self._say(str(error))

    def _start_services(self, url: str, ports: list[int]) -> None:
        plan = self._plan
        form = os.environ.get("LOG_FORMAT", "console")
        common = {"NATS_URL": url, "HOST": plan.host, "LOG_FORMAT": form, "PYTHONUNBUFFERED": "1"}
        counts = {"presence": plan.presences, "callcore": plan.callcores, "gateway": plan.gateways}
        for service, count in counts.items():
            for i in range(count):
                name = f"{service}-{i + 1}"
                env = {**common, "INSTANCE_ID": name, "HEALTH_PORT": "0"}
                if service == "gateway":
                    env["PORT"] = str(ports[i])
                child = Child(name, plan.command(service), env, self._say)
                self.children[service].append(child)
                child.start()

    async def _until_ready(self, url: str, ports: list[int]) -> None:
        """Wait for every beat and every ``/readyz``, and say where it is."""
        host = f"[{self._plan.host}]" if ":" in self._plan.host else self._plan.host
        reach = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
        ready = asyncio.create_task(self._everybody_ready(url, [f"http://{reach}:{port}" for port in ports]))
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait(
            {ready, stop}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()
        if ready not in done:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
            if stop not in done:
                raise PlanError(f"not ready within {READY_SECONDS:.0f} s; the lines above say why")
            return
        ready.result()
        urls = " ".join(f"http://{host}:{port}" for port in ports)
        counts = f"{self._plan.callcores} callcore, {self._plan.presences} presence"
        self._say(f"ready: {urls} (NATS {url}, {counts})")

    async def _everybody_ready(self, url: str, gateways: list[str]) -> None:
        silent = {child.name for service in ("callcore", "presence") for child in self.children[service]}
        client = await nats.connect(url, connect_timeout=3)
        try:
            beats = await client.subscribe(subjects.LIVE)
            while silent:
                await client.publish(subjects.ROLLCALL)
                with contextlib.suppress(nats.errors.TimeoutError):
                    msg = await beats.next_msg(timeout=0.3)
                    if not Beat.model_validate_json(msg.data).leaving:
                        silent.discard(subjects.parse_live(msg.subject)[1])
        finally:
            await client.close()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            for gateway in gateways:
                while not await _ready(http, gateway):
                    await asyncio.sleep(0.05)

    # --- stopping ---

    async def _wait(self) -> None:
        parent = os.getppid()
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stop.wait()
            if os.getppid() != parent:
                self._say("the process that started this is gone; stopping")
                self._stop.set()

    async def _stop_all(self) -> None:
        """Gateways first, so that nobody asks who is no longer there."""
        self._stop.set()
        deadline = time.monotonic() + (0.0 if self._hurry else STOP_SECONDS)
        for service in ("gateway", "callcore", "presence"):
            await asyncio.gather(*(child.stop(deadline) for child in self.children[service]))

    def _all(self) -> list[Child]:
        return [child for children in self.children.values() for child in children]


async def _ready(http: aiohttp.ClientSession, gateway: str) -> bool:
    try:
        async with http.get(f"{gateway}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


@contextlib.contextmanager
def _folder(plan: Plan) -> Iterator[Path]:
    """Where nats-server keeps things: a temporary folder that goes with it, or ``--data``, which stays."""
    if plan.data is None:
        _sweep_old_folders()
        with tempfile.TemporaryDirectory(
            prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True
        ) as name:
            yield Path(name)
        return
    try:
        plan.data.mkdir(parents=True, exist_ok=True)
        lock = (plan.data / "lock").open("w")
    except OSError as error:
        raise PlanError(f"--data {plan.data} cannot be used: {error.strerror}") from None
    with lock:
        _take(lock, plan.data)
        yield plan.data


def _take(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise PlanError(f"--data {folder} is in use by another instance") from None


def _sweep_old_folders() -> None:
    """Remove what an instance left that was killed and could not clean up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def run(plan: Plan) -> int:
    """Run the plan in the foreground; the exit status."""

    async def main() -> None:
        up = Up(plan)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, up.stop)
        await up.run()

    try:
        asyncio.run(main())
    except PlanError as error:
        print(f"signalling: {error}", file=sys.stderr)
        return 1
    return 0
