"""Start the servers that are compared, each with its own processes, on the loopback."""

import contextlib
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Roots
from signalling.run.process import die_with_parent

REPOSITORY = Path(__file__).resolve().parent.parent
NODE_FOLDER = Path(__file__).resolve().parent / "node"
START_SECONDS = 30.0
STOP_SECONDS = 5.0
KINDS = ("ours", "redis", "node")
_PORTS = (15_000, 31_000)

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
_NATS = """\
import sys
from pathlib import Path
try:
    from signalling.run.nats_server import EmbeddedNats
except ModuleNotFoundError:  # a tree from before the package
    from signalling.nats_server import EmbeddedNats
server = EmbeddedNats(Path(sys.argv[1]), die_with_parent=True)
server.start()
print(server.url, server.pid, flush=True)
sys.stdin.read()
server.kill()
"""


class BenchError(Exception):
    """Raised if something cannot be measured; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts the processes of each of our services."""

    gateways: int = 2
    callcores: int = 1
    presences: int = 1


@dataclass(frozen=True, slots=True)
class Spec:
    """Describes a server to measure. ``tree``: the source of one of ours. ``settings``: environment of our services."""

    label: str
    kind: str
    tree: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """Describes a running server: the addresses for clients, and the processes by role."""

    urls: list[str]
    roots: Roots
    nats: str = ""
    """Address of NATS, for our system."""


def parse(text: str, folder: Path, settings: dict[str, str]) -> Spec:
    """Parse ``node``, ``redis``, ``ours``, ``ours=FOLDER`` or ``ours=COMMIT``; a commit is unpacked below ``folder``.

    Raises :class:`BenchError`.
    """
    kind, _, where = text.partition("=")
    if kind not in KINDS or (where and kind != "ours"):
        raise BenchError(f"{text}: must be node, redis, ours, or ours= and a folder or commit")
    if kind != "ours":
        return Spec(text, kind)
    if not where:
        return Spec(text, kind, REPOSITORY, settings)
    tree = Path(where).resolve()
    if not tree.is_dir():
        tree = folder / f"tree-{where.replace('/', '_')}"
        _unpack(where, tree)
    if not (tree / "services").is_dir():
        raise BenchError(f"{where}: there is no folder 'services' in it")
    return Spec(f"ours={Path(where).name}", kind, tree, settings)


def _unpack(commit: str, tree: Path) -> None:
    got = subprocess.run(
        [_program("git"), "archive", "--format=tar", commit], cwd=REPOSITORY, capture_output=True, check=False
    )
    if got.returncode:
        raise BenchError(f"{commit}: neither a folder nor a commit: {got.stderr.decode().strip()}")
    tree.mkdir()
    subprocess.run([_program("tar"), "-x"], cwd=tree, input=got.stdout, check=True)


def raise_file_limit() -> int:
    """Raise the limit of open files to its maximum, also for child processes. Return the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def check(kinds: set[str]) -> None:
    """Check the requirements of the other servers. Raises :class:`BenchError` if one is missing."""
    if kinds & {"node", "redis"}:
        if not (NODE_FOLDER / "node_modules").is_dir():
            raise BenchError("bench/node is not set up: make bench does it, or npm ci in bench/node")
        _program("node")
    if "redis" in kinds:
        _program("redis-server")


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if found is None:
        raise BenchError(f"{name} is not installed (redis-server is in the distribution's packages)")
    return found


@contextlib.contextmanager
def running(spec: Spec, counts: Counts, folder: Path) -> Iterator[Running]:
    """Start a server with its store and logs in ``folder``, and stop it at the end. Raises :class:`BenchError`."""
    with _Processes(folder) as processes:
        start = {"ours": _start_ours, "redis": _start_redis, "node": _start_node}[spec.kind]
        yield start(spec, counts, processes)


# --- the three ------------------------------------------------------------------------------------------------


def _start_node(_spec: Spec, _counts: Counts, processes: "_Processes") -> Running:
    (port,) = _free_ports(1)
    processes.start("node", [_program("node"), "memory.js"], NODE_FOLDER, _node_env(PORT=port))
    url = f"http://127.0.0.1:{port}"
    processes.wait_ready([url])
    return Running([url], processes.roots)


def _start_redis(_spec: Spec, _counts: Counts, processes: "_Processes") -> Running:
    redis, *ports = _free_ports(3)
    options = ["--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--appendonly", "no"]
    processes.start("redis", [_program("redis-server"), *options], processes.folder, {})
    for port in ports:
        env = _node_env(PORT=port, REDIS_PORT=redis)
        processes.start("node", [_program("node"), "redis.js"], NODE_FOLDER, env)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    processes.wait_ready(urls)
    return Running(urls, processes.roots)


def _node_env(**numbers: int) -> dict[str, str]:
    return {"NODE_ENV": "production", **{key: str(value) for key, value in numbers.items()}}


def _start_ours(spec: Spec, counts: Counts, processes: "_Processes") -> Running:
    """Start our services as shipped, but with log files and a longer time to join."""
    assert spec.tree is not None
    own = spec.tree / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    url = processes.start_nats(python, spec.tree)
    kinds = ["callcore"] * counts.callcores + ["presence"] * counts.presences + ["gateway"] * counts.gateways
    ports = _free_ports(len(kinds))
    for number, (kind, port) in enumerate(zip(kinds, ports, strict=True)):
        env = {
            "NATS_URL": url,
            "INSTANCE_ID": f"{kind}-{number}",
            "PORT" if kind == "gateway" else "HEALTH_PORT": str(port),
            "JOIN_TIMEOUT_SECONDS": "300",
            "RATE_LIMIT": "off",
            **spec.settings,
        }
        processes.start(kind, [python, "-m", f"services.{kind}"], spec.tree, env)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    processes.wait_ready(urls)
    return Running(urls[-counts.gateways :], processes.roots, url)


# --- processes ------------------------------------------------------------------------------------------------


class _Processes:
    """Runs processes that are killed at the end, because their data is thrown away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots: Roots = {}
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process, _log in reversed(self._started):
            if process.stdin is not None:
                process.stdin.close()  # the one that keeps nats-server kills it now
            else:
                process.kill()
        for process, _log in self._started:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)

    def start(self, role: str, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        """Start a process of a role."""
        process = self._launch(role, command, cwd, env)
        self.roots.setdefault(role, []).append(process.pid)

    def start_nats(self, python: str, tree: Path) -> str:
        """Start the nats-server of a tree, configured as in that tree. Return its URL."""
        command = [python, "-c", _NATS, str(self.folder / "nats")]
        keeper = self._launch("nats", command, tree, {}, talks=True)
        assert keeper.stdout is not None
        words = keeper.stdout.readline().split()  # ends when the process ends, which has a limit of its own
        if len(words) != 2:
            raise BenchError(f"nats-server did not start: {_tail(self._started[-1][1])}")
        self.roots["nats"] = [int(words[1])]
        return words[0].decode()

    def _launch(
        self, role: str, command: list[str], cwd: Path, env: dict[str, str], *, talks: bool = False
    ) -> subprocess.Popen[bytes]:
        log = self.folder / f"{role}-{len(self._started)}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={key: os.environ[key] for key in _KEPT if key in os.environ} | env,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else out,
                stderr=out,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._started.append((process, log))
        return process

    def wait_ready(self, urls: list[str]) -> None:
        """Wait until each ``/readyz`` reports readiness. Raises :class:`BenchError`."""
        until = time.monotonic() + START_SECONDS
        for url in urls:
            while not _ready(url):
                self._check_alive()
                if time.monotonic() > until:
                    logs = "; ".join(f"{log.stem}: {_tail(log)}" for _, log in self._started)
                    raise BenchError(f"not ready within {START_SECONDS:.0f} s: {logs}")
                time.sleep(0.05)
        self._check_alive()

    def _check_alive(self) -> None:
        for process, log in self._started:
            if process.poll() is not None:
                raise BenchError(f"{log.stem} ended at once: {_tail(log)}")


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - ours, http
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-3:])[-600:]


def _free_ports(count: int) -> list[int]:
    """Return free TCP ports of the loopback.

    They are below the ephemeral ports, because the connections of a run take thousands of those.
    """
    ports: list[int] = []
    for port in random.sample(range(*_PORTS), _PORTS[1] - _PORTS[0]):
        if len(ports) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
