"""Run the whole system on this machine, each service in its own process, NATS included, for ``signalling up``."""

import asyncio
import os
import shlex
import signal
import sys
import time
from typing import TypeVar

import aiohttp
import nats
import nats.errors
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from services.callcore import settings as callcore
from services.gateway import settings as gateway
from services.gateway.transport import demo_page
from services.presence import settings as presence
from shared import subjects
from shared.contracts.liveness import Beat
from shared.nats.connection import Login, without_passwords
from shared.service.settings import EXIT_USAGE, BackendSettings, explain
from signalling.nats_users import MONITOR
from signalling.run import nats_broker, workdir
from signalling.run.nats_broker import NatsBroker
from signalling.run.plan import Plan, PlanError, gateway_ports, metrics_ports
from signalling.run.process import Say, ServiceProcess

STOP_SECONDS = 7.5
"""Seconds for all services to stop, default drain included; the rest of ten is for nats-server."""
DRAIN_SECONDS = 1.0
"""Default drain time of gateways: short, because all gateways stop."""
NATS_STOP_SECONDS = 1.0
LOOK_SECONDS = 0.2
METRICS_HOST = "127.0.0.1"

S = TypeVar("S", bound=BaseSettings)


def say(line: str) -> None:
    """Print one line for the user."""
    try:
        print(line, flush=True)
    except OSError:
        # The reader has closed the pipe (``| head``). The services must not stop for that.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


class Supervisor:
    """Runs a plan until a stop is requested."""

    def __init__(self, plan: Plan, *, say: Say = say) -> None:
        self._plan = plan
        self._say = say
        self._stop = asyncio.Event()
        self._hurry = False
        self._broker: NatsBroker | None = None
        self._children: dict[str, list[ServiceProcess]] = {"presence": [], "callcore": [], "gateway": []}
        given = _given(gateway.Settings)
        self._drain = (
            given.drain_seconds if given and "drain_seconds" in given.model_fields_set else DRAIN_SECONDS
        )
        self._metrics_host = given.metrics_host if given is not None else METRICS_HOST
        self._metrics: dict[str, int] = {}
        """Maps a process to the port of its ``/metrics``."""
        self._demo = given is None or given.demo or "demo" not in given.model_fields_set
        self._heard: set[str] = set()
        """Instances that have reported that they are ready."""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop in good order; at once if a stop is under way and this is Ctrl-C.

        A second SIGTERM changes nothing, because make and signals to a process group send it twice.
        """
        self._hurry = self._hurry or (self._stop.is_set() and number == signal.SIGINT)
        self._stop.set()
        if self._hurry:
            for child in self._all():
                child.kill()

    async def run(self) -> None:
        """Start, report readiness, run, stop. Raises :class:`PlanError` if the system cannot be started."""
        ports = gateway_ports(self._plan)
        with workdir.opened(self._plan.data) as store:
            if self._plan.nats is None:
                self._broker = NatsBroker(store, self._plan.nats_nodes, self._say)
            watch = asyncio.create_task(self._watch_parent(), name="watch parent")
            try:
                if self._broker is not None:
                    await self._broker.start()
                    url = self._broker.url
                else:
                    url = self._plan.nats or ""
                    await nats_broker.check(url, self._login())
                self._start_services(url, ports)
                await self._until_ready(url, ports)
                await self._stop.wait()
            finally:
                watch.cancel()
                await self._stop_all()
        self._say("stopped")

    def _login(self) -> Login | None:
        """Return the NATS login of this process: the monitor's, or at an existing server that of the services."""
        if self._broker is not None:
            return self._broker.login()
        given = _given(BackendSettings)
        return given.nats_login() if given is not None else None

    # --- starting ---

    def _start_services(self, url: str, ports: list[int]) -> None:
        plan = self._plan
        form = os.environ.get("LOG_FORMAT") or "console"
        common = {"NATS_URL": url, "HOST": plan.host, "LOG_FORMAT": form, "PYTHONUNBUFFERED": "1"}
        given = _given(BackendSettings)
        if plan.nats_nodes > 1 and given and "kv_replicas" not in given.model_fields_set:
            common["KV_REPLICAS"] = str(plan.nats_nodes)
        count = plan.presences + plan.callcores + plan.gateways
        free = iter(metrics_ports(count, self._metrics_host, ports))
        counts = {"presence": plan.presences, "callcore": plan.callcores, "gateway": plan.gateways}
        for service, count in counts.items():
            for i in range(count):
                name = f"{service}-{i + 1}"
                self._metrics[name] = next(free)
                env = {**common, "HEALTH_PORT": "0", "METRICS_PORT": str(self._metrics[name])}
                if self._broker is not None:
                    env |= self._broker.env(service)
                if service == "gateway":
                    env |= {"PORT": str(ports[i]), "DRAIN_SECONDS": str(self._drain), "DEMO": str(self._demo)}
                child = ServiceProcess(name, plan.command(service), env, self._say)
                self._children[service].append(child)
                child.start()

    async def _until_ready(self, url: str, ports: list[int]) -> None:
        """Wait for every heartbeat and every ``/readyz``, and print the addresses."""
        host, reach = _shown(self._plan.host), _reach(self._plan.host)
        tasks = [
            asyncio.create_task(self._everybody_ready(url, [f"http://{reach}:{port}" for port in ports])),
            asyncio.create_task(self._somebody_refuses()),
            asyncio.create_task(self._stop.wait()),
        ]
        done, pending = await asyncio.wait(
            tasks, timeout=self._plan.ready_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self._stop.is_set():
            return
        if not done:
            silent = ", ".join(child.name for child in self._all() if child.instance not in self._heard)
            raise PlanError(f"not ready within {self._plan.ready_seconds:.0f} s: {silent}")
        for task in done:
            if isinstance(error := task.exception(), OSError | nats.errors.Error):
                raise PlanError(f"NATS at {without_passwords(url)} cannot be used: {error}") from None
            task.result()
        urls = " ".join(f"http://{host}:{port}" for port in ports)
        counts = f"{self._plan.callcores} callcore, {self._plan.presences} presence"
        self._say(f"ready: {urls} (NATS {without_passwords(url)}, {counts})")
        if self._demo:
            self._say(
                f"page: http://{reach}:{ports[0]}/" if demo_page.built() else "page: not built (`make page`)"
            )
        where = _reach(self._metrics_host)
        self._say(
            "metrics: "
            + " ".join(
                f"{name}=http://{where}:{port}/metrics" for name, port in sorted(self._metrics.items())
            )
        )
        if self._broker is not None:
            env = " ".join(f"{key}={shlex.quote(value)}" for key, value in self._broker.env(MONITOR).items())
            self._say(f"watch: NATS_URL={url} {env} {shlex.quote(sys.executable)} -m signalling monitor")

    async def _everybody_ready(self, url: str, gateways: list[str]) -> None:
        await asyncio.gather(self._hear_beats(url), self._ask_gateways(gateways))

    async def _hear_beats(self, url: str) -> None:
        who = login._asdict() if (login := self._login()) is not None else {}
        client = await nats.connect(
            nats_broker.split(url),
            connect_timeout=3,
            max_reconnect_attempts=-1,
            error_cb=_quiet,
            **who,
        )
        try:
            beats = await client.subscribe(subjects.LIVE)
            await client.publish(subjects.ROLLCALL)
            while not all(child.instance in self._heard for child in self._answering()):
                try:
                    msg = await beats.next_msg(timeout=LOOK_SECONDS)
                except nats.errors.TimeoutError:
                    await client.publish(subjects.ROLLCALL)
                    continue
                if not Beat.model_validate_json(msg.data).leaving:
                    self._heard.add(subjects.parse_live(msg.subject)[1])
        finally:
            await client.close()

    async def _ask_gateways(self, urls: list[str]) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            for child, url in zip(self._children["gateway"], urls, strict=True):
                while not await _ready(http, url):
                    await asyncio.sleep(0.05)
                self._heard.add(child.instance)

    async def _somebody_refuses(self) -> None:
        """Raise :class:`PlanError` if a service refuses its settings, because a restart would not help."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for child in self._all():
                if child.status == EXIT_USAGE:
                    raise PlanError(f"{child.name} refuses its settings; its lines above say which")

    # --- stopping ---

    async def _watch_parent(self) -> None:
        if not self._plan.with_parent:
            return
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(LOOK_SECONDS)
        self._say("the process that started this is gone; stopping")
        self._stop.set()

    async def _stop_all(self) -> None:
        """Stop the gateways first, so that none requests from a stopped service."""
        self._stop.set()
        patience = STOP_SECONDS + max(0.0, self._drain - DRAIN_SECONDS)
        deadline = time.monotonic() + (0.0 if self._hurry else patience)
        for service in ("gateway", "callcore", "presence"):
            await asyncio.gather(*(child.stop(deadline) for child in self._children[service]))
        if self._broker is not None:
            await self._broker.stop(NATS_STOP_SECONDS)

    def _all(self) -> list[ServiceProcess]:
        return [child for children in self._children.values() for child in children]

    def _answering(self) -> list[ServiceProcess]:
        """Return the processes that report readiness by heartbeats; gateways do by ``/readyz``."""
        return self._children["callcore"] + self._children["presence"]


def _given(settings: type[S]) -> S | None:
    """Return the settings of the environment and ``.env``; ``None`` if they conflict, which the services report."""
    try:
        return settings()
    except ValidationError:
        return None


def wrong_settings() -> list[str]:
    """Return a line for each setting of a service that has a wrong value, also if it would be overridden here.

    Services check settings that conflict, because some of them are overridden here.
    """
    lines: dict[str, None] = {}
    for settings in (gateway.Settings, callcore.Settings, presence.Settings):
        try:
            settings()
        except ValidationError as error:
            if all(item["loc"] for item in error.errors(include_url=False)):
                lines |= dict.fromkeys(explain(error))
    return list(lines)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reach(host: str) -> str:
    """Return the host for URLs under which a listener on ``host`` is reached on this machine."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(_shown(host), _shown(host))  # noqa: S104


async def _ready(http: aiohttp.ClientSession, gateway: str) -> bool:
    try:
        async with http.get(f"{gateway}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _quiet(_: Exception) -> None:
    """Drop what nats-py would log; the services report it when they cannot reach NATS."""


def run(plan: Plan) -> int:
    """Run the plan in the foreground. Return the exit status."""

    async def main() -> None:
        up = Supervisor(plan)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, up.stop, number)
        await up.run()

    if wrong := wrong_settings():
        for line in wrong:
            print(f"signalling: {line}", file=sys.stderr)
        return EXIT_USAGE
    try:
        asyncio.run(main())
    except PlanError as error:
        print(f"signalling: {error}", file=sys.stderr)
        return 1
    return 0
