"""An app of somebody else: the client as `npm pack` packs it, installed in a folder, and built with their tools."""

import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.support.service_process import REPOSITORY

CLIENT = REPOSITORY / "web" / "client"
GUIDE = REPOSITORY / "docs" / "clients.md"
README = REPOSITORY / "README.md"
GATEWAY = "http://127.0.0.1:8001"
"""What the guide has for the URL of a gateway."""
TOOL_SECONDS = 120.0
_STRICT = (
    "--strict", "--noEmit", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler",
    "--lib", "es2022,dom,dom.iterable",
)  # fmt: skip


def code(language: str, document: Path = GUIDE) -> list[str]:
    """The pieces of code in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.M | re.S)


class Server:
    """Serves a folder at ``origin``, another one than any gateway's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
        self.origin = f"http://localhost:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(TOOL_SECONDS)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Project:
    """The folder."""

    def __init__(self, server: Server, gateway: str) -> None:
        self.folder = folder = server.folder
        self.origin = server.origin
        self._gateway = gateway
        self._run("npm", "pack", "--silent", "--pack-destination", str(folder), cwd=CLIENT)
        [packed] = folder.glob("*.tgz")
        modules = folder / "node_modules"
        home = self.package
        home.parent.mkdir(parents=True)
        self._run("tar", "-xzf", str(packed), cwd=folder)
        (folder / "package").rename(home)
        # What it depends on is not fetched again.
        (modules / "socket.io-client").symlink_to(CLIENT / "node_modules" / "socket.io-client")

    def write(self, name: str, text: str) -> None:
        """A file, with the gateway of this test for that of the guide."""
        (self.folder / name).write_text(text.replace(GATEWAY, self._gateway))

    @property
    def package(self) -> Path:
        """The client as it is installed."""
        return self.folder / "node_modules" / "@hellotalk" / "signalling-client"

    def check_types(self, name: str, *options: str) -> None:
        """Check with strict types; later ``options`` of TypeScript's compiler count."""
        self._run(str(CLIENT / "node_modules" / ".bin" / "tsc"), *_STRICT, *options, name)

    def node(self, name: str) -> None:
        """Run a file in Node.js."""
        self._run("node", name)

    def bundle(self, name: str) -> None:
        """What a page can load, as ``name`` with ``.js``."""
        tool = CLIENT / "node_modules" / ".bin" / "esbuild"
        out = f"--outfile={Path(name).stem}.js"
        self._run(
            str(tool), name, "--bundle", "--format=esm", "--log-level=warning", out, "--allow-overwrite"
        )

    def _run(self, *command: str, cwd: Path | None = None) -> None:
        # Where the machine has no Node.js, that of the virtual environment.
        path = f"{os.environ['PATH']}:{Path(sys.executable).parent}"
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
