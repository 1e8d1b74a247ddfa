"""The images of the stack: ours from its Dockerfile, on official ones or, where none can be had, on one made here.

``STACK_IMAGES=official`` (the default) has the engine pull what compose.yaml names; ``local`` makes a base with
debootstrap (as root) that has Python, HAProxy and coturn of Debian and the nats-server of this environment.
"""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from signalling.nats_server import find_binary
from tests.stack.engine import REPOSITORY, docker, run

MIRROR = "http://deb.debian.org/debian"
RELEASE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv,busybox,haproxy,coturn"
DEBOOTSTRAP_SECONDS = 400.0
BUILD_SECONDS = 300.0
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
OURS = "hellotalk-test/signalling"

_BASE = f"hellotalk-test/{RELEASE}"
# What the official images have besides: `python`, `wget`, and users that are not root.
_DOCKERFILE = """\
FROM {base}
COPY nats-server /usr/local/bin/
COPY ca-certificates.crt /etc/ssl/certs/
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /bin/busybox /usr/local/bin/wget
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""
_LEFT_OUT = ("var/cache", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man", "dev")


@dataclass(frozen=True)
class Images:
    """Names of images as compose.yaml's variables have them; empty where its defaults are meant."""

    variables: dict[str, str]

    @property
    def nats(self) -> str:
        """The image of the NATS server."""
        return self.variables.get("NATS_IMAGE", "nats:2.15-alpine")


def build(folder: Path) -> Images:
    """Build everything; ``folder`` takes what is only needed meanwhile."""
    variables = {"SIGNALLING_IMAGE": OURS}
    arguments = ["--build-arg", "REVISION=test"]
    if os.environ.get("STACK_IMAGES", "official") == "local":
        local = _local(folder)
        user = _derived(f"{local}-user", f"FROM {local}\nUSER 99:99\n", folder)
        variables |= {"PYTHON_IMAGE": local, "NATS_IMAGE": local, "PROXY_IMAGE": user, "TURN_IMAGE": local}
        arguments += ["--network", "host", "--build-arg", f"PYTHON_IMAGE={local}"]
    docker("build", "-q", "-t", OURS, *arguments, str(REPOSITORY), timeout=BUILD_SECONDS)
    return Images(variables)


def _local(folder: Path) -> str:
    """One image in the place of python, nats, haproxy and coturn; made once for each machine."""
    nats_server = Path(find_binary())
    parts = (PACKAGES.encode(), _DOCKERFILE.encode(), nats_server.read_bytes(), CERTIFICATES.read_bytes())
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]
    name = f"hellotalk-test/local:{key}"
    if _there(name):
        return name
    base = f"{_BASE}:{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    if not _there(base):
        _bootstrap(base, folder / "root")
    context = folder / "local"
    context.mkdir()
    shutil.copy(nats_server, context / "nats-server")
    shutil.copy(CERTIFICATES, context)
    return _derived(name, _DOCKERFILE.format(base=base), context)


def _derived(name: str, dockerfile: str, context: Path) -> str:
    (context / "Dockerfile").write_text(dockerfile)
    docker("build", "-q", "-t", name, "-f", str(context / "Dockerfile"), str(context))
    return name


def _bootstrap(name: str, root: Path) -> None:
    """A Debian with :data:`PACKAGES`."""
    assert os.geteuid() == 0, "debootstrap needs root; or STACK_IMAGES=official"
    run(
        "debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root), MIRROR,
        timeout=DEBOOTSTRAP_SECONDS,
    )  # fmt: skip
    excluded = [f"--exclude=./{part}/*" for part in _LEFT_OUT]
    with subprocess.Popen(["tar", "-C", str(root), *excluded, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", "-", name], stdin=tar.stdout, check=True, capture_output=True, timeout=120
        )
    assert tar.returncode == 0
    shutil.rmtree(root)


def _there(name: str) -> bool:
    return bool(docker("image", "ls", "-q", name).strip())
