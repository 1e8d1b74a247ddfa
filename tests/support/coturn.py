"""A real coturn on loopback, on the configuration of ``deploy/coturn``."""

import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from services.gateway.auth.turn_credentials import IceServers
from shared.clock import now_ms
from tests.support.cluster import free_port
from tests.support.service_process import REPOSITORY

CONFIG = REPOSITORY / "deploy" / "coturn" / "turnserver.conf"
START_SECONDS = 10.0
STOP_SECONDS = 10.0


def installed() -> bool:
    """Whether Debian's coturn is there."""
    return shutil.which("turnserver") is not None


class Coturn:
    """``peers``: addresses that the configuration keeps out and that may be relayed to all the same."""

    def __init__(self, folder: Path, *peers: str) -> None:
        self.port = free_port()
        self.secret = secrets.token_hex(16)
        self.log = folder / "coturn.log"
        self._folder = folder
        self._options = [f"--allowed-peer-ip={peer}" for peer in peers]
        if peers:
            self._options.append("--allow-loopback-peers")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"turn:127.0.0.1:{self.port}?transport=udp"

    def credentials(self, seconds: int = 600) -> dict[str, Any]:
        """The server as a client of a gateway is told of it, good for so long from now on."""
        issued = IceServers([], [self.url], self.secret, seconds, now_ms).issue("alice")
        return issued.servers[0]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "turnserver", "-c", str(CONFIG), f"--static-auth-secret={self.secret}",
                    "--listening-ip=127.0.0.1", f"--listening-port={self.port}",
                    "--relay-ip=127.0.0.1", "--relay-ip=::1",
                    f"--pidfile={self._folder / 'coturn.pid'}", f"--userdb={self._folder / 'coturn.db'}",
                    *self._options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS)
