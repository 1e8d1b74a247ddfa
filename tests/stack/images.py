"""The images of the stack: ours from its Dockerfile, on official ones or, where none can be had, on one made here.

``STACK_IMAGES=official`` (the default) has the engine pull what compose.yaml names; ``local`` makes one image in the
place of them all, of this machine's Debian packages (Python, HAProxy, coturn) and this environment's nats-server.
``python -m tests.stack.images`` builds them beforehand, so that the tests find them in the engine's cache.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from signalling.run.nats_server import find_binary
from tests.stack.engine import REPOSITORY, docker, run

PACKAGES = ("busybox", "coturn", "dash", "haproxy", "python3", "python3-venv")
DOWNLOAD_SECONDS = 120.0
BUILD_SECONDS = 300.0
LOCK = Path(tempfile.gettempdir()) / "hellotalk-test-images.lock"
"""Whoever builds holds it: what one is about to have built, the next need not build as well."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
OURS = "hellotalk-test/signalling"

# What official images have besides: `python`, `wget`, compiled modules. Packages are unpacked but not configured.
_DOCKERFILE = """\
FROM scratch
ADD root.tar /
COPY nats-server /usr/local/bin/
COPY ca-certificates.crt /etc/ssl/certs/
RUN /bin/busybox --install -s /usr/local/bin && ln -s /usr/bin/python3 /usr/local/bin/python \\
 && echo root:x:0:0::/:/bin/sh > /etc/passwd && echo root:x:0: > /etc/group && mkdir -p -m 1777 /tmp \\
 && python3 -m compileall -q /usr/lib/python3.11
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""
_MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders of the root that are links into /usr."""
_LEFT_OUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/perl", "usr/lib/*/perl")


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
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(folder)


def _build(folder: Path) -> Images:
    variables = {"SIGNALLING_IMAGE": OURS}
    arguments = ["--build-arg", "REVISION=test"]
    if os.environ.get("STACK_IMAGES", "official") == "local":
        local = _local(folder)
        user = _derived(f"{local}-user", f"FROM {local}\nUSER 99:99\n", folder)
        variables |= {"PYTHON_IMAGE": local, "NATS_IMAGE": local, "PROXY_IMAGE": user, "TURN_IMAGE": local}
        if (prometheus := shutil.which("prometheus")) is not None:
            shutil.copy(prometheus, folder)
            lines = f"FROM {local}\nCOPY prometheus /usr/local/bin/\nRUN mkdir -m 1777 /prometheus\n"
            variables["PROMETHEUS_IMAGE"] = _derived(f"{local}-prometheus", lines, folder)
        arguments += ["--network", "host", "--build-arg", f"PYTHON_IMAGE={local}"]
    docker("build", "-q", "-t", OURS, *arguments, str(REPOSITORY), timeout=BUILD_SECONDS)
    return Images(variables)


def _local(folder: Path) -> str:
    """One image in the place of python, nats, haproxy and coturn; made once for each machine."""
    nats_server = Path(find_binary())
    parts = [
        " ".join(PACKAGES).encode(),
        _DOCKERFILE.encode(),
        nats_server.read_bytes(),
        CERTIFICATES.read_bytes(),
    ]
    name = f"hellotalk-test/local:{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
    if docker("image", "ls", "-q", name).strip():
        return name
    _unpack(folder)
    shutil.copy(nats_server, folder / "nats-server")
    shutil.copy(CERTIFICATES, folder)
    return _derived(name, _DOCKERFILE, folder)


def _derived(name: str, dockerfile: str, context: Path) -> str:
    (context / "Dockerfile").write_text(dockerfile)
    docker("build", "-q", "-t", name, "-f", str(context / "Dockerfile"), str(context))
    return name


def _unpack(folder: Path) -> None:
    """Write ``root.tar``: the packages and all they depend on, as apt finds them for an empty system."""
    root, archives = folder / "root", folder / "archives"
    (archives / "partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "Dir::State::status": folder / "status",
        "Dir::Cache::archives": archives,
        "APT::Keep-Downloaded-Packages": "true",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    run("apt-get", "-qq", "-y", *given, "--no-install-recommends", "--download-only", "install", *PACKAGES,
        timeout=DOWNLOAD_SECONDS)  # fmt: skip
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(archives.glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as files:
            unpack = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)]
            subprocess.run(unpack, stdin=files.stdout, check=True, timeout=60)
        assert files.returncode == 0, package
    left_out = [f"--exclude=./{part}/*" for part in _LEFT_OUT]
    owned = ["--owner=0", "--group=0", "--numeric-owner"]
    run("tar", "-c", "-C", str(root), "-f", str(folder / "root.tar"), *owned, *left_out, ".")
    shutil.rmtree(root)
    shutil.rmtree(archives)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        build(Path(made))
