"""Provide NATS for a running system: embedded servers that are restarted, or existing servers."""

import asyncio
import contextlib
import logging
from pathlib import Path

from nats.aio.client import Client

from shared.nats.connection import Login, without_passwords
from signalling.nats_users import MONITOR, Passwords
from signalling.run.nats_server import EmbeddedNats, NatsServerError, cluster, joint_url
from signalling.run.plan import PlanError
from signalling.run.process import RESTART_BACKOFF, Say, describe

CONNECT_SECONDS = 3
START_LEFT_SECONDS = 0.5
"""Seconds that a stop waits for a start under way."""
LOOK_SECONDS = 0.1


async def check(url: str, login: Login | None) -> None:
    """Check NATS with JetStream at ``url``, comma separated, as ``login``. Raises :class:`PlanError` if it fails."""
    shown = without_passwords(url)
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # it says the same again, with a traceback
    client = Client()
    try:
        async with asyncio.timeout(CONNECT_SECONDS * 2):
            await client.connect(
                split(url),
                user=login.user if login is not None else None,
                password=login.password if login is not None else None,
                connect_timeout=CONNECT_SECONDS,
                allow_reconnect=False,
                max_reconnect_attempts=0,
            )
            await client.jetstream().account_info()
    except TimeoutError:
        raise PlanError(f"NATS at {shown} cannot be used: no answer") from None
    except Exception as error:  # noqa: BLE001 - whatever the client library makes of a wrong address
        reason = str(error).removeprefix("nats: ") or type(error).__name__
        raise PlanError(f"NATS at {shown} cannot be used: {reason}") from None
    finally:
        with contextlib.suppress(Exception):
            await client.close()


def split(url: str) -> list[str]:
    """Return the servers of a comma separated address as a list for nats-py."""
    return [part.strip() for part in url.split(",")]


class NatsBroker:
    """Runs embedded nats-servers, one or a cluster; one that exits is restarted, on its port and its store."""

    def __init__(self, folder: Path, nodes: int, say: Say) -> None:
        """Raises :class:`PlanError` if ``folder`` has the store of another number of servers."""
        try:
            self._passwords = Passwords.new(folder / "passwords")
            self._servers = cluster(folder, nodes, die_with_parent=True, passwords=self._passwords)
        except NatsServerError as error:
            raise PlanError(str(error)) from None
        self._say = say
        self._stop = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], EmbeddedNats] = {}

    @property
    def url(self) -> str:
        """Return the addresses for clients, comma separated; valid once all servers are started."""
        return joint_url(self._servers)

    def env(self, user: str) -> dict[str, str]:
        """Return the environment of a process that connects to these servers as a user."""
        return self._passwords.client_env(user)

    def login(self) -> Login:
        """Return the login of the monitor."""
        return Login(MONITOR, self._passwords.of(MONITOR))

    async def start(self) -> None:
        """Start the servers and restart each that exits. Raises :class:`PlanError` if one cannot be started."""
        try:
            for server in self._servers:
                server.launch()  # here and not in a worker thread: the server goes when the thread goes
            for server in self._servers:
                await asyncio.to_thread(server.wait)
        except (NatsServerError, OSError) as error:
            raise PlanError(str(error)) from None
        for server in self._servers:
            self._tasks[asyncio.create_task(self._keep(server), name=f"keep {server.name}")] = server

    async def stop(self, seconds: float) -> None:
        """Stop the servers in good order; SIGKILL after that time."""
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=START_LEFT_SECONDS)
            if busy := [task for task in self._tasks if not task.done()]:
                for task in busy:
                    self._tasks[task].kill()  # which ends the start that it waits for
                await asyncio.wait(busy)
        await asyncio.gather(*(asyncio.to_thread(server.stop, seconds) for server in self._servers))

    async def _keep(self, server: EmbeddedNats) -> None:
        failures = 0
        while not await self._stopped(LOOK_SECONDS):
            if (end := server.ended) is None:
                continue
            self._say(f"{server.name} ended ({describe(*end)}); starting it again")
            try:
                server.launch()
                await asyncio.to_thread(server.wait)
                failures = 0
            except (NatsServerError, OSError) as error:
                delay = RESTART_BACKOFF.seconds(failures)
                failures += 1
                self._say(f"{server.name}: {error}; next try in {delay:.1f} s")
                await self._stopped(delay)

    async def _stopped(self, seconds: float) -> bool:
        """Wait that long, or until a stop is requested. Return True if it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()
