"""The quick start for compose in README.md, word for word, in a new clone: with default settings, limits and port."""

import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.engine import REPOSITORY, compose_command, docker, environment, run
from tests.stack.images import OURS, Images
from tests.stack.stack import containers
from tests.support.terminal import Terminal

pytestmark = pytest.mark.timeout(600)

README = (REPOSITORY / "README.md").read_text()
PORT = 8080
URL = f"http://127.0.0.1:{PORT}"
COUNTS = {"gateway": 3, "callcore": 2, "presence": 2, "nats": 1, "proxy": 1}
PER_ADDRESS = 20
"""Connections at a gateway from one address: so few that a test can have them all."""
COMMAND_SECONDS = 300.0
READY_SECONDS = 90.0

# `docker compose` where Compose is a command of its own.
_PLUGIN = """\
#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
  echo '{"SchemaVersion": "0.1.0", "Vendor": "tests", "Version": "1"}'
else
  shift && exec docker-compose "$@"
fi
"""
_BUILD_ON_HOST = "services: {gateway: {build: {network: host}}}\n"
# Takes connections through the proxy, each time with another address of its own invention, until that is refused.
_CROWD = """
import http.client, sys
for n in range(int(sys.argv[1])):
    door = http.client.HTTPConnection("proxy", 8080, timeout=5)
    door.request("GET", "/socket.io/?EIO=4&transport=polling", headers={"X-Forwarded-For": f"203.0.113.{n}"})
    if (status := door.getresponse().status) != 200:
        break
print(n, status)
"""


def block(heading: str, language: str) -> str:
    """The first block of code under a heading of the README."""
    _, _, section = README.partition(f"\n## {heading}\n")
    found = re.search(rf"^```{language}\n(.*?)^```$", section.partition("\n## ")[0], re.M | re.S)
    assert found is not None, heading
    return found[1]


class Clone:
    """A clone of its own, and a shell in it. Compose names the project after its folder."""

    def __init__(self, above: Path, images: Images) -> None:
        self.project = f"signalling-readme-{secrets.token_hex(3)}"
        self.folder = above / self.project
        for name in run("git", "ls-files", "-z").rstrip("\0").split("\0"):
            if (REPOSITORY / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, self.folder / name)
        self.env = {
            **environment(),
            **images.variables,
            "SIGNALLING_IMAGE": f"{OURS}-readme",
            "CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS),
        }
        if "PYTHON_IMAGE" in images.variables:
            (above / "build.yaml").write_text(_BUILD_ON_HOST)
            self.env["COMPOSE_FILE"] = f"compose.yaml:{above / 'build.yaml'}"
        if compose_command() == ("docker-compose",):
            plugin = above / "docker" / "cli-plugins" / "docker-compose"
            plugin.parent.mkdir(parents=True)
            plugin.write_text(_PLUGIN)
            plugin.chmod(0o755)
            self.env["DOCKER_CONFIG"] = str(above / "docker")

    def sh(self, text: str) -> str:
        """What a shell says that runs ``text``; an ``AssertionError`` if anything of it fails."""
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", text],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            errors="replace",
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def clone(built: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """What somebody has who did what the README says."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT} is taken")
    clone = Clone(tmp_path_factory.mktemp("readme"), built)
    try:
        clone.sh(block("Run with docker compose", "sh"))
        yield clone
    finally:
        clone.sh("docker compose down -v --remove-orphans -t 5")


def _status(path: str) -> int:
    try:
        with urllib.request.urlopen(f"{URL}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_after_these_commands_it_is_all_there(clone: Clone) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        healthy = Counter(c.service for c in containers(clone.project) if c.healthy)
        if healthy == COUNTS and _status("/readyz") == 200:
            break
        assert time.monotonic() < until, (healthy, clone.sh("docker compose logs --tail=20"))
        time.sleep(0.5)
    assert len(containers(clone.project)) == sum(COUNTS.values())


def test_the_two_clients_of_the_readme_have_a_call(clone: Clone) -> None:
    code = block("A call, from two clients", "python").replace("http://127.0.0.1:8001", URL)
    told = run(sys.executable, "-c", code, timeout=60)
    events = [(who, what) for who, what in re.findall(r"^(alice|bob) +<- (\S+) ", told, re.M)]
    assert [what for who, what in events if who == "bob"] == [
        "user:joined", "call:incoming", "call:accepted", "call:offer", "call:ended"
    ]  # fmt: skip
    assert [what for who, what in events if who == "alice"] == [
        "user:joined", "call:initiated", "call:accepted", "call:ended"
    ]  # fmt: skip


def test_the_probe_gets_through_the_limits_that_are_set_by_default(clone: Clone) -> None:
    for _ in range(3):
        probed = json.loads(run(sys.executable, "-m", "signalling", "probe", "--url", URL, "--json"))
        assert probed["ok"]


def test_watch_shows_what_there_is(clone: Clone) -> None:
    (line,) = re.findall(r"^docker compose run .*$", block("Watch a running system", "sh"), re.M)
    terminal = Terminal(["/bin/sh", "-c", f"cd {clone.folder} && {line}"], clone.env)
    try:
        terminal.until("gateway", "callcore", "presence", "DELIVER", seconds=60)
        terminal.type("q")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_clients_are_counted_by_their_own_addresses_and_not_by_what_they_say(clone: Clone) -> None:
    """Through the proxy: one client has all the connections that it may have, and another one gets in all the same."""
    enough = str(COUNTS["gateway"] * PER_ADDRESS + 1)
    crowd = ["--entrypoint", "python", f"{OURS}-readme", "-c", _CROWD, enough]
    taken, status = docker("run", "--rm", "--network", f"{clone.project}_edge", *crowd).split()
    assert status == "429" and int(taken) >= PER_ADDRESS
    assert _status("/socket.io/?EIO=4&transport=polling") == 200
