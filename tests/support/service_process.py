"""One service as a process of its own, with its log in a file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
STOP_SECONDS = 15.0

ALARMS = (
    "Traceback",
    "never retrieved",
    "never awaited",
    "Task was destroyed",
    "ermissions Violation",
    "ermissions violation",
    "reconciled: ",
)
"""What no log line of a service says as long as nothing breaks; ``reconciled``: an instance left something behind."""


class Service:
    """``python -m services.<kind>`` under the name ``name``."""

    def __init__(self, kind: str, name: str, env: dict[str, str], folder: Path) -> None:
        self.kind = kind
        self.name = name
        self.log = folder / f"{name}.log"
        self._env = {**clean_environment(), **env, "INSTANCE_ID": name}
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self.killed = False
        """Whether a test has killed it and not started it again."""

    def start(self) -> None:
        """Start the process; its log goes on where it was."""
        self.killed = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"services.{self.kind}"],
                cwd=REPOSITORY,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def memory(self) -> int:
        """Bytes of memory that the process has in use."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to a process that is there."""
        assert self._process is not None and self.running, f"{self.name} is not running:\n{self.tail()}"
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.killed = True  # before it is gone: a supervisor must not start it again meanwhile
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_SECONDS)

    def wait(self) -> int:
        """The exit status of a process that is about to end."""
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    def stop(self) -> int | None:
        """SIGTERM, SIGKILL if that does not help; the exit status, ``None`` for a process that was gone before."""
        if self._process is None or not self.running:
            return None
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(STOP_SECONDS)

    def alarms(self, allowed: tuple[str, ...] = ()) -> list[str]:
        """Lines logged since the last call that should not be there, but for those with a text of ``allowed``."""
        found, self._read = alarms(self.log, self._read, allowed)
        return [f"{self.name}: {line}" for line in found]

    def tail(self, lines: int = 20) -> str:
        """The end of the log."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )


def alarms(file: Path, start: int, allowed: Iterable[str]) -> tuple[list[str], int]:
    """Lines of a log from byte ``start`` on that should not be there, but for those with a text of ``allowed``.

    Also where the log ends now.
    """
    with file.open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").splitlines()
        end = log.tell()
    return [
        line[:2000] for line in lines if _alarming(line) and not any(text in line for text in allowed)
    ], end


def _alarming(line: str) -> bool:
    if any(alarm in line for alarm in ALARMS):
        return True
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and (entry.get("level") in ("error", "critical") or "exception" in entry)


def clean_environment() -> dict[str, str]:
    """The environment of the tests without what would set a service."""
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SYSTEMROOT")
    return {key: os.environ[key] for key in keep if key in os.environ} | {"PYTHONUNBUFFERED": "1"}
