"""The system as compose.yaml has it, on a real Docker engine; to tests it looks like a cluster with one door."""

import asyncio
import contextlib
import csv
import io
import os
import secrets
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import nats.errors

from signalling.nats_users import MONITOR, Passwords
from tests.stack.engine import REPOSITORY, compose_command, docker, environment, inspect, inspect_one, run
from tests.stack.images import Images
from tests.support import stored_records
from tests.support.cluster import QUIET_SECONDS, RING_SECONDS, WINDOW_SECONDS, free_port
from tests.support.nats_users import Access
from tests.support.service_process import alarms

OURS = ("gateway", "callcore", "presence")
READY_SECONDS = 90.0
UP_SECONDS = 180.0
_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"


class Door(NamedTuple):
    """Where clients connect."""

    url: str


class Container:
    """One container, as ``docker inspect`` has it."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.id: str = found["Id"]
        self.name: str = found["Name"].lstrip("/")
        self.service: str = found["Config"]["Labels"][_SERVICE]
        self.state: dict[str, Any] = found["State"]

    @property
    def pid(self) -> int:
        """Its first process, as the host numbers it."""
        return int(self.state["Pid"])

    @property
    def healthy(self) -> bool:
        """Whether it runs, and its health check says so, if it has one."""
        return (
            bool(self.state["Running"]) and self.state.get("Health", {}).get("Status", "healthy") == "healthy"
        )

    def address(self, network: str) -> str:
        """Its address on the network whose name ends so."""
        networks = self.found["NetworkSettings"]["Networks"]
        return str(next(n["IPAddress"] for name, n in networks.items() if name.endswith(f"_{network}")))


def containers(project: str, *services: str) -> list[Container]:
    """The containers of these services of a compose project, or all, stopped ones too; by name."""
    found = map(Container, inspect(label=f"{_PROJECT}={project}"))
    return sorted((c for c in found if not services or c.service in services), key=lambda c: c.name)


class Stack:
    """A compose project of its own: own name, own port, own volumes; logs go to ``folder``."""

    def __init__(self, folder: Path, images: Images, **settings: str) -> None:
        self.folder = folder
        self.ring_seconds = float(settings.get("RING_TIMEOUT_SECONDS", RING_SECONDS))
        self.window_seconds = int(settings.get("RESUME_WINDOW_SECONDS", WINDOW_SECONDS))
        self.project = f"signalling-test-{secrets.token_hex(3)}"
        self.port = free_port()
        self.gateways = [Door(f"http://127.0.0.1:{self.port}")]
        self.allowed: tuple[str, ...] = ()
        """Texts that make an alarming log line all right, for the test that is running."""
        self._passwords = Passwords.new(folder / "passwords")
        self._settings = {
            **images.variables,
            **self._passwords.server_env(),
            "PUBLISH": f"127.0.0.1:{self.port}",
            "RING_TIMEOUT_SECONDS": str(RING_SECONDS),
            "DRAIN_SECONDS": "3",
            "AUTH_MODE": "none",
            "RATE_LIMIT": "off",  # one address, and more candidates a call than people have
            **settings,
        }
        self._env_file = folder / "stack.env"
        self._env_file.write_text("".join(f"{key}={value}\n" for key, value in self._settings.items()))
        self._scale: dict[str, int] = {}
        self._logs: dict[str, _Log] = {}

    # --- life ---

    async def compose(self, *args: str, timeout: float = UP_SECONDS) -> str:
        """``docker compose …`` for this project."""
        command = (*compose_command(), "--env-file", str(self._env_file), "-p", self.project)
        command += ("-f", str(REPOSITORY / "compose.yaml"))
        return await asyncio.to_thread(run, *command, *args, timeout=timeout)

    async def up(self, **scale: int) -> None:
        """Start what is not there, have so many of each service named, and wait until all of it works."""
        self._scale |= scale
        counts = [f"--scale={service}={count}" for service, count in self._scale.items()]
        await self.compose("up", "-d", "--no-build", *counts)
        await self.ready()

    async def down(self) -> None:
        """Stop and remove everything, volumes too."""
        await self.compose("down", "-v", "--remove-orphans")
        for log in self._logs.values():
            log.close()

    async def ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until every container is healthy, the proxy uses every gateway, and every service has been heard."""
        until = time.monotonic() + timeout
        self.follow()
        while wrong := await asyncio.to_thread(self._wrong):
            assert time.monotonic() < until, f"{wrong}\n{self.tails()}"
            await asyncio.sleep(0.2)
            self.follow()
        await self._heard(until)

    def _wrong(self) -> list[str]:
        containers = self.containers()
        wrong = [
            f"{c.name} is {c.state['Status']}, {c.state.get('Health', {}).get('Status')}"
            for c in containers
            if not c.healthy
        ]
        running = [c for c in containers if c.service == "gateway"]
        if not wrong and (used := self.gateways_used()) != len(running):
            wrong.append(f"the proxy uses {used} of {len(running)} gateways")
        return wrong

    async def _heard(self, until: float) -> None:
        heard: set[str] = set()
        wanted = {kind: len(self.containers(kind)) for kind in ("callcore", "presence")}
        async with self.access.connect(MONITOR) as client:
            beats = await client.subscribe("live.*.*")
            while missing := {
                k: n for k, n in wanted.items() if sum(b.split(".")[1] == k for b in heard) < n
            }:
                assert time.monotonic() < until, f"not heard: {missing}, but {heard}\n{self.tails()}"
                try:
                    heard.add((await beats.next_msg(timeout=0.2)).subject)
                except nats.errors.TimeoutError:
                    await client.publish("rollcall")

    # --- what is there ---

    def containers(self, *services: str) -> list[Container]:
        """The containers of these services, or all, stopped ones too; by name."""
        return containers(self.project, *services)

    def one(self, service: str) -> Container:
        """The first container of a service."""
        return self.containers(service)[0]

    def gateways_used(self) -> int:
        """How many gateways the proxy sends new connections to."""
        return sum(
            row["status"].startswith("UP")
            for row in self.proxy_state()
            if row["svname"].startswith("gateway")
        )

    def proxy_state(self) -> list[dict[str, str]]:
        """One row for each front, back and server of the proxy."""
        try:
            text = docker("exec", self.one("proxy").id, "wget", "-qO-", "http://127.0.0.1:8404/;csv")
        except AssertionError:
            return []  # about to start
        return list(csv.DictReader(io.StringIO(text.lstrip("# "))))

    @property
    def access(self) -> Access:
        """NATS as the host reaches it; nobody else outside does."""
        return Access(f"nats://{self.one('nats').address('bus')}:4222", self._passwords)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a ``GET`` through the proxy; 0 if there is no answer."""
        try:
            with urllib.request.urlopen(f"{self.gateways[0].url}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    # --- breaking things ---

    def kill(self, container: Container) -> None:
        """SIGKILL to its process, behind the engine's back: the engine starts it again."""
        os.kill(container.pid, signal.SIGKILL)

    async def restarted(self, container: Container, timeout: float = READY_SECONDS) -> None:
        """Wait until the engine has started it again."""
        until = time.monotonic() + timeout
        while (now := await asyncio.to_thread(self._again, container)).pid in (0, container.pid):
            assert time.monotonic() < until, f"{container.name} is {now.state}"
            await asyncio.sleep(0.1)

    @staticmethod
    def _again(container: Container) -> Container:
        return Container(inspect_one(container.id))

    # --- what must be true after every test ---

    def follow(self) -> None:
        """Keep what containers that are new say from now on."""
        for container in self.containers(*OURS):
            if container.id not in self._logs:
                self._logs[container.id] = _Log(container, self.folder)

    def check_logs(self) -> None:
        """No log says since the last check what no log should say."""
        allowed, self.allowed = self.allowed, ()
        found = [line for log in self._logs.values() for line in log.alarms(allowed)]
        assert not found, "\n".join(found[:20])

    async def assert_quiet(self, within: float = QUIET_SECONDS) -> None:
        """Within that many seconds no user is held and no call is live."""
        until = time.monotonic() + within
        while busy := await stored_records.busy(self.access):
            assert time.monotonic() < until, f"after {within} s: {busy[:20]} ({len(busy)})"
            await asyncio.sleep(0.1)

    async def events(self, subject: str) -> list[dict[str, Any]]:
        """What stream ``EVENTS`` has at a subject."""
        return await stored_records.events(self.access, subject)

    def said(self, text: str) -> list[str]:
        """Every line of any service, removed containers included, that has this text."""
        return [line for log in self._logs.values() for line in log.lines() if text in line]

    def tails(self) -> str:
        """The end of every log."""
        other = [(c.name, docker("logs", "--tail", "15", c.id)) for c in self.containers("proxy", "nats")]
        ours = [(log.name, "\n".join(log.lines()[-15:])) for log in self._logs.values()]
        return "\n\n".join(f"--- {name}\n{tail}" for name, tail in (*other, *ours))


class _Log:
    """What one container says, over its restarts, also when it is removed."""

    def __init__(self, container: Container, folder: Path) -> None:
        self.name = container.name
        self._id = container.id
        self._file = folder / f"{container.name}-{container.id[:8]}.log"
        self._file.touch()
        self._read = 0
        self._closed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        since = 0.0
        while not self._closed.is_set():
            with self._file.open("ab") as out:
                command = ["docker", "logs", "-f", "--since", f"{since:.3f}", self._id]
                self._process = subprocess.Popen(command, stdout=out, stderr=out, env=environment())
                status = self._process.wait()
            since = time.time() - 0.05
            if status:
                return  # removed
            self._closed.wait(0.2)

    def close(self) -> None:
        self._closed.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        self._thread.join(5)

    def lines(self) -> list[str]:
        return self._file.read_text(errors="replace").splitlines()

    def alarms(self, allowed: Iterable[str]) -> list[str]:
        found, self._read = alarms(self._file, self._read, allowed)
        return [f"{self.name}: {line}" for line in found]
