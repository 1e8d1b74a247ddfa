"""Parts of aiohttp, python-engineio and python-socketio that are not public: all are there, and all are named."""

import ast
import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import engineio
import pytest
import pytest_asyncio
import socketio
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from engineio.async_socket import AsyncSocket

import services.gateway
from services.gateway.compat import aiohttp_compat, engineio_compat, socketio_compat

LIBRARIES = ("aiohttp", "engineio", "socketio")
COMPAT = (aiohttp_compat, engineio_compat, socketio_compat)
FOLDER = Path(services.gateway.__file__).parent
NAMED = {
    "aiohttp": aiohttp_compat.PRIVATE,
    "engineio": engineio_compat.PRIVATE,
    "socketio": socketio_compat.INTERNAL,
}
PROTOCOLS = {
    "AsyncSocket": engineio_compat.Connection,
    "AsyncServer": engineio_compat.Server,
    "reason": engineio_compat.Reasons,
    "AsyncManager": socketio_compat.Manager,
}


def members(protocol: type) -> set[str]:
    """What a protocol asks for."""
    defined = set(protocol.__annotations__) | set(vars(protocol))
    return {name for name in defined if not name.startswith("_")}


@pytest_asyncio.fixture
async def instances() -> AsyncIterator[dict[str, Any]]:
    """Class → an instance of it as the gateway's server makes it."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sio = socketio.AsyncServer(async_mode="aiohttp")
    sio.manager.initialize()
    assert runner.server is not None
    protocol = runner.server()
    yield {
        "AppRunner": runner,
        "Server": runner.server,
        "RequestHandler": protocol,
        "WebSocketResponse": web.WebSocketResponse(),
        "TCPSite": site,
        "WebSocketDataQueue": aiohttp_compat.WebSocketDataQueue(protocol, 1, loop=asyncio.get_running_loop()),
        "AsyncServer": sio.eio,
        "AsyncSocket": AsyncSocket(sio.eio, "a"),
        "AsyncManager": sio.manager,
        "reason": sio.eio.reason,
    }
    await runner.cleanup()


def missing(instances: dict[str, Any]) -> Iterator[str]:
    """What a library does not have any more, by class."""
    for library, classes in NAMED.items():
        for name, attributes in classes.items():
            yield from (f"{library}: {name}.{a}" for a in attributes if not hasattr(instances[name], a))
    for name, protocol in PROTOCOLS.items():
        yield from (f"{name}.{a}" for a in members(protocol) if not hasattr(instances[name], a))


async def test_every_attribute_is_there(instances: dict[str, Any]) -> None:
    assert isinstance(instances["RequestHandler"], RequestHandler)
    assert not list(missing(instances)), f"with aiohttp {aiohttp.__version__}"


@pytest.mark.parametrize("where", [(aiohttp_compat, "TCPSite"), (engineio_compat, "AsyncServer")])
async def test_an_attribute_that_is_gone_is_named(
    where: tuple[ModuleType, str], instances: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = where
    attributes = {**module.PRIVATE[name], "_gone_in_5": "it is not there"}
    monkeypatch.setitem(module.PRIVATE, name, attributes)
    assert [line.split(": ")[-1] for line in missing(instances)] == [f"{name}._gone_in_5"]


def test_public_calls_take_the_arguments_they_get() -> None:
    close = inspect.signature(AsyncSocket.close).parameters
    assert {"wait", "abort", "reason"} <= set(close)
    assert list(inspect.signature(engineio.AsyncServer.handle_request).parameters)[1:] == ["args", "kwargs"]
    assert list(inspect.signature(socketio.AsyncManager.pre_connect).parameters)[1:] == [
        "eio_sid", "namespace",
    ]  # fmt: skip


# --- no other module reaches them -----------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    """True if a name has an underscore in front, and is no dunder."""
    return name.startswith("_") and not name.startswith("__")


def library_bases(cls: type) -> list[type]:
    """Classes of the libraries from which a class inherits."""
    return [base for base in cls.__mro__ if base.__module__.split(".")[0] in LIBRARIES]


def private_names_of(bases: list[type]) -> set[str]:
    """Private attributes of classes: those that they have, and those that their methods set."""
    names = {name for base in bases for name in vars(base)}
    for base in bases:
        source = base.__module__.replace("reader_c", "reader_py")  # compiled from that
        tree = ast.parse(inspect.getsource(importlib.import_module(source)))
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in names if is_private(name)}


def reached(tree: ast.Module, module: ModuleType) -> Iterator[str]:
    """Private names of the libraries, or of objects other than ``self``, that a module uses."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(source)) if source.split(".")[0] in LIBRARIES:
                parts = [*source.split("."), *(alias.name for alias in node.names)]
                yield from (f"import {part}" for part in parts if is_private(part))
            case ast.Import():
                for alias in node.names:
                    parts = alias.name.split(".")
                    if parts[0] in LIBRARIES:
                        yield from (f"import {part}" for part in parts if is_private(part))
            case ast.ClassDef():
                cls = getattr(module, node.name, None)
                private = private_names_of(library_bases(cls)) if isinstance(cls, type) else set()
                own = set(getattr(cls, "__slots__", ())) if cls is not None else set()
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Attribute) and inner.attr in private - own:
                        yield inner.attr
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name in private:
                        yield f"def {inner.name}"
            case ast.Attribute(value=value, attr=attr) if is_private(attr):
                of_itself = isinstance(value, ast.Name) and value.id in ("self", "cls")
                if not of_itself and attr not in ("_replace", "_asdict"):  # of named tuples
                    yield f"{ast.unparse(value)}.{attr}"


def modules() -> list[str]:
    """Every module of the gateway, by name."""
    return [
        name
        for _, name, _ in pkgutil.walk_packages([str(FOLDER)], "services.gateway.")
        if "__main__" not in name
    ]


@pytest.mark.parametrize("name", [name for name in modules() if ".compat." not in name])
def test_no_other_module_reaches_them(name: str) -> None:
    module = importlib.import_module(name)
    assert not list(reached(ast.parse(inspect.getsource(module)), module))


def test_reaching_them_is_noticed() -> None:
    found = {hit for module in COMPAT for hit in reached(ast.parse(inspect.getsource(module)), module)}
    assert found >= {
        "import _websocket", "handler._message_tail", "_keepalive_handle", "def _make_server", "parts._async",
        "site._server",
    }  # fmt: skip


@pytest.mark.parametrize("module", COMPAT, ids=lambda module: module.__name__.split(".")[-1])
def test_compat_names_all_that_it_reaches(module: ModuleType) -> None:
    classes = getattr(module, "PRIVATE", {})
    named = {attribute for attributes in classes.values() for attribute in attributes} | {"_websocket"}
    own = {"_connect", "_connected", "_disconnected", "_message"}
    for hit in reached(ast.parse(inspect.getsource(module)), module):
        attribute = hit.split(".")[-1].split(" ")[-1]
        assert attribute in named | own, f"{module.__name__} uses {hit} and does not say why"


def test_read_queue_and_runner_use_what_is_named() -> None:
    """A name that is used nowhere is not kept in the table."""
    used = {
        node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", getattr(node, "value", None))
        for path in FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.Constant) and node.value == "_size")
    }
    for classes in NAMED.values():
        for name, attributes in classes.items():
            assert set(attributes) <= used, name
    for name, protocol in PROTOCOLS.items():
        assert members(protocol) <= used, name
