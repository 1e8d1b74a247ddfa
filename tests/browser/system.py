"""``signalling up`` with two gateways, and the page that they serve."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.up.conftest import descendants
from tests.support.service_process import REPOSITORY, clean_environment

START_SECONDS = 60.0
STOP_SECONDS = 20.0
RING_SECONDS = 15
"""Longer than anybody takes to answer on a slow machine, and shorter than people's patience."""


class System:
    """The whole system as ``make up`` starts it; a gateway that dies is started again."""

    def __init__(self, log: Path, *, gateways: int = 2, **settings: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "signalling",
                    "up",
                    "--port",
                    "0",
                    "--gateways",
                    str(gateways),
                    "--with-parent",
                ],
                cwd=REPOSITORY,
                env={**clean_environment(), "RING_TIMEOUT_SECONDS": str(RING_SECONDS), **settings},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.urls: list[str] = []

    def ready(self) -> None:
        """Wait until it says where it is."""
        end = time.monotonic() + START_SECONDS
        while not self.urls:
            assert time.monotonic() < end and self._process.poll() is None, self._log.read_text()
            lines = [line for line in self._log.read_text().splitlines() if line.startswith("ready: ")]
            self.urls = [url for line in lines for url in line.removeprefix("ready: ").split(" (")[0].split()]
            time.sleep(0.05)

    def kill_gateway(self, number: int) -> None:
        """SIGKILL."""
        port = f"PORT={self.urls[number].rpartition(':')[2]}".encode()
        found = [pid for pid in descendants(self._process.pid) if port in _environment(pid)]
        assert len(found) == 1, found
        os.kill(found[0], signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
