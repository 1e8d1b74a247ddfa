"""Run one process of the system: start it, restart it when it ends, and stop it."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

from shared.ids import new_id
from shared.nats.backoff import Backoff

RESTART_BACKOFF = Backoff(first=0.2, longest=5.0, jitter=0)
SETTLED_SECONDS = 30.0
"""Seconds of life after which a process is restarted without delay."""
LINE_MAX = 64 * 1024
LAST_LINES_SECONDS = 0.5
"""Seconds to read the last lines of a process that has ended."""

Say = Callable[[str], None]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Have the kernel end this new child process when the supervisor has ended (Linux).

    Strictly, when the thread that started it has ended.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ServiceProcess:
    """Keeps ``command`` running under ``name``. Its output is passed on, each line prefixed with the name.

    Each start makes a new instance with an id of its own, because messages to the former instance are not for it.
    """

    def __init__(self, name: str, command: list[str], env: dict[str, str], say: Say) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._say = say
        self.instance = ""
        """``INSTANCE_ID`` of the process started last."""
        self.status: int | None = None
        """Exit status of the last run, or minus the number of a signal."""
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    def start(self) -> None:
        """Start the process and restart it when it ends."""
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and do not restart; call :meth:`stop` nevertheless."""
        self._stopping = True
        self.signal(signal.SIGKILL)

    async def stop(self, deadline: float) -> None:
        """Send SIGTERM, and SIGKILL at ``deadline`` (monotonic seconds) if the process still runs."""
        self._stopping = True
        if self.pid is not None and self._process is not None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(max(0.05, deadline - time.monotonic())):
                    await self._process.wait()
            except TimeoutError:
                self._say(f"{self.name} did not stop in time and was killed")
                self.signal(signal.SIGKILL)
                await self._process.wait()
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=LAST_LINES_SECONDS)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping:
            born = time.monotonic()
            try:
                pid, self.status = await self._run()
                end = describe(pid, self.status)
            except OSError as error:  # no memory, no file handles, no such program
                end = f"cannot be started: {error.strerror or error}"
            if self._stopping:
                return
            if time.monotonic() - born > SETTLED_SECONDS:
                failures = 0
            delay = RESTART_BACKOFF.seconds(failures)
            self._say(f"{self.name} ended ({end}); starting it again in {delay:.1f} s")
            await asyncio.sleep(delay)
            failures += 1

    async def _run(self) -> tuple[int, int]:
        """Run the process until it ends. Return ``(pid, status)``."""
        self.instance = f"{self.name}-{new_id()[:6]}"
        # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which stops things in order.
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, **self._env, "INSTANCE_ID": self.instance},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            limit=LINE_MAX,
        )
        await self._pass_on(self._process)
        return self._process.pid, await self._process.wait()

    async def _pass_on(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than LINE_MAX; what was read of it is dropped
                continue
            if not line:
                return
            self._say(f"{self.name} | {line.decode(errors='replace').rstrip()}")


def describe(pid: int, status: int) -> str:
    """Return in words how a process ended."""
    return f"pid {pid}, {signal.Signals(-status).name if status < 0 else f'status {status}'}"
