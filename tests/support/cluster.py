"""A whole system of real processes: NATS servers and any number of each service."""

import asyncio
import errno
import secrets
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import nats.errors

from signalling.nats_users import MONITOR, Passwords
from signalling.run import nats_server
from tests.support import stored_records
from tests.support.nats_users import Access
from tests.support.service_process import Service, clean_environment

START_SECONDS = 60.0
QUIET_SECONDS = 20.0
RING_SECONDS = 45
WINDOW_SECONDS = 30
"""The default of ``RESUME_WINDOW_SECONDS``."""
PORTS = range(10_000, 30_000)
"""Below those that Linux gives for port 0, as to the NATS servers of other tests, and to clients."""

# Names of the services in beats and in settings: kind → prefix of its instances' names.
_NAMES = {"callcore": "cc", "presence": "pr", "gateway": "gw"}


class Gateway(Service):
    """A gateway and where it is reached."""

    def __init__(self, name: str, env: dict[str, str], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("gateway", name, {**env, "PORT": str(self.port)}, folder)

    def ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Cluster:
    """``gateways`` × ``callcores`` × ``presences`` processes on ``nats_nodes`` servers; all files go to ``folder``.

    ``locked``: NATS lets its users do what they need only; else anybody may listen to everything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gateways: int = 1,
        callcores: int = 1,
        presences: int = 1,
        nats_nodes: int = 1,
        ring_seconds: float = RING_SECONDS,
        locked: bool = True,
        **settings: str,
    ) -> None:
        self.folder = folder
        self.ring_seconds = ring_seconds
        self.window_seconds = int(settings.get("RESUME_WINDOW_SECONDS", WINDOW_SECONDS))
        self._counts = {"callcore": callcores, "presence": presences, "gateway": gateways}
        self._settings = {
            "RING_TIMEOUT_SECONDS": str(ring_seconds),
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "info",
            "DRAIN_SECONDS": "1",
            "KV_REPLICAS": str(nats_nodes),
            "RATE_LIMIT": "off",  # one address, thousands of candidates; tests of limits set it
            **settings,
        }
        self._passwords = Passwords.new(folder / "passwords")
        self._nats = nats_server.cluster(
            folder / "nats", nats_nodes, passwords=self._passwords if locked else None
        )
        self._services: dict[str, Service] = {}
        self.gateways: list[Gateway] = []
        self.allowed: tuple[str, ...] = ()
        """Texts that make an alarming log line all right, for the test that is running."""

    # --- life ---

    async def start(self) -> None:
        """Start everything and wait until it works; leaves nothing behind if it does not."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise

    async def _start(self) -> None:
        for server in self._nats:
            server.launch()
        for server in self._nats:
            await asyncio.to_thread(server.wait)
        for kind, count in self._counts.items():
            for number in range(1, count + 1):
                name = f"{_NAMES[kind]}-{number}"
                url = await self.nats_url_of(name)
                env = {**self._settings, "NATS_URL": url, **self._passwords.client_env(kind)}
                service = (
                    Gateway(name, env, self.folder)
                    if kind == "gateway"
                    else Service(kind, name, env, self.folder)
                )
                self._services[name] = service
                if isinstance(service, Gateway):
                    self.gateways.append(service)
                service.start()
        await self.ready()

    async def nats_url_of(self, _service: str) -> str:
        """Where a service finds NATS."""
        return self._url

    @property
    def nats(self) -> list[nats_server.EmbeddedNats]:
        """The NATS servers."""
        return self._nats

    @property
    def _url(self) -> str:
        return nats_server.joint_url(self._nats)

    def tools_env(self) -> dict[str, str]:
        """The environment in which the operator's tools find this system."""
        return {**clean_environment(), "NATS_URL": self._url, **self._passwords.client_env(MONITOR)}

    @property
    def access(self) -> Access:
        """Where NATS is, and how to be let in."""
        return Access(self._url, self._passwords)

    async def ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until every gateway says that it is ready and every other service that runs has been heard."""
        until = time.monotonic() + timeout
        silent = {s.name for s in self._services.values() if s.running and s.kind != "gateway"}
        async with self.access.connect(MONITOR) as client:
            beats = await client.subscribe("live.*.*")
            while silent:
                assert time.monotonic() < until, f"not heard: {silent}\n{self.tails()}"
                try:
                    silent.discard((await beats.next_msg(timeout=0.2)).subject.rsplit(".", 1)[1])
                except nats.errors.TimeoutError:
                    self._none_died()
                    await client.publish("rollcall")
        waiting = [gateway for gateway in self.gateways if gateway.running]
        while waiting:
            assert time.monotonic() < until, f"not ready: {[g.name for g in waiting]}\n{self.tails()}"
            self._none_died()
            waiting = [g for g in waiting if not await asyncio.to_thread(g.ready)]
            await asyncio.sleep(0.05)

    def _none_died(self) -> None:
        dead = [s for s in self._services.values() if not s.running and not s.killed]
        assert not dead, "\n".join(f"{s.name} has ended:\n{s.tail()}" for s in dead)

    async def stop(self) -> None:
        """Stop everything, gateways first; each must end as it should."""
        codes = await self._stop()
        wrong = {name: code for name, code in codes.items() if code not in (0, None)}
        assert not wrong, f"exit statuses {wrong}\n{self.tails()}"

    async def _stop(self) -> dict[str, int | None]:
        order = [*self.gateways, *(s for s in self._services.values() if s.kind != "gateway")]
        codes = await asyncio.gather(*(asyncio.to_thread(service.stop) for service in order))
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._nats))
        return {service.name: code for service, code in zip(order, codes, strict=True)}

    # --- breaking things ---

    def kill(self, name: str) -> None:
        """SIGKILL to one process."""
        self._services[name].kill()

    def restart(self, name: str) -> None:
        """Start a process again that was killed."""
        self._services[name].start()

    def stop_one(self, name: str) -> "asyncio.Future[int | None]":
        """SIGTERM to one process; its exit status, once it has ended."""
        service = self._services[name]
        service.killed = True
        service.signal(signal.SIGTERM)
        return asyncio.ensure_future(asyncio.to_thread(service.wait))

    def kill_nats(self, node: int = 0) -> None:
        """SIGKILL to a NATS server."""
        self._nats[node].kill()

    def restart_nats(self, node: int = 0) -> None:
        """Start it again, on its port and what it had stored."""
        self._nats[node].start()

    async def whole(self, timeout: float = START_SECONDS) -> None:
        """Wait until each of the NATS servers has all that the others have."""
        until = time.monotonic() + timeout
        while behind := await stored_records.behind(self.access):
            assert time.monotonic() < until, f"streams not replicated: {behind}"
            await asyncio.sleep(0.2)

    def running(self, name: str) -> bool:
        """Whether that process is there."""
        return self._services[name].running

    def ended(self) -> dict[str, str]:
        """Services that have ended although nobody killed them → the end of their log."""
        return {s.name: s.tail(3) for s in self._services.values() if not s.running and not s.killed}

    def pause_one(self, name: str) -> None:
        """SIGSTOP to one process."""
        self._services[name].signal(signal.SIGSTOP)

    def resume_one(self, name: str) -> None:
        """Let it go on."""
        self._services[name].signal(signal.SIGCONT)

    def pause(self, kind: str) -> None:
        """SIGSTOP to all processes of a kind: they are there and do not answer."""
        for service in self._of(kind):
            service.signal(signal.SIGSTOP)

    def resume(self, kind: str) -> None:
        """Let them go on."""
        for service in self._of(kind):
            service.signal(signal.SIGCONT)

    def _of(self, kind: str) -> list[Service]:
        return [service for service in self._services.values() if service.kind == kind and service.running]

    # --- what must be true after every test ---

    def check_logs(self) -> None:
        """No log says since the last check what no log should say."""
        allowed, self.allowed = self.allowed, ()
        alarms = [line for service in self._services.values() for line in service.alarms(allowed)]
        assert not alarms, "\n".join(alarms[:20])

    async def assert_quiet(self, within: float = QUIET_SECONDS) -> None:
        """Within that many seconds no user is held and no call is live."""
        until = time.monotonic() + within
        while busy := await stored_records.busy(self.access):
            assert time.monotonic() < until, f"after {within} s: {busy[:20]} ({len(busy)})"
            await asyncio.sleep(0.1)

    async def sessions(self) -> list[str]:
        """The keys of bucket ``sessions`` that have a value, but for those of gateways."""
        return await stored_records.sessions(self.access)

    async def events(self, subject: str) -> list[dict[str, Any]]:
        """What stream ``EVENTS`` has at a subject."""
        return await stored_records.events(self.access, subject)

    def tails(self) -> str:
        """The end of every log."""
        return "\n\n".join(f"--- {s.name}\n{s.tail()}" for s in self._services.values())


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on, and that nobody is given who asks the system for any."""
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
