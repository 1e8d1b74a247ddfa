"""Private parts of nats-py and asyncio: those that are used are there, and only the compat modules reach into them."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.micro.request import Request
from nats.micro.service import Endpoint, EndpointConfig, Service, ServiceConfig

from shared import asyncio_compat
from shared.nats.compat import client as compat_client
from shared.nats.compat.private import PRIVATE

ROOT = Path(__file__).parents[3]
COMPAT = (ROOT / "shared/nats/compat", ROOT / "shared/asyncio_compat.py")
NAMEDTUPLE = frozenset({"_asdict", "_replace"})
"""Public in spite of their names."""


async def _handler(_: Request) -> None:
    """An endpoint needs one."""


def instances() -> dict[str, object]:
    """Return an object of each class of which private attributes are used."""
    client = Client()
    service = Service(client, ServiceConfig(name="test", version="0.0.0"))
    return {
        "Client": client,
        "TcpTransport": TcpTransport(),
        "Subscription": Subscription(client),
        "Service": service,
        "Endpoint": Endpoint(service, EndpointConfig(name="test", handler=_handler)),
        "Request": Request(Msg(client)),
        "StreamReader": asyncio.StreamReader(),
    }


def lost(objects: dict[str, object]) -> list[str]:
    """Return the private attributes that are used and that these objects do not have."""
    return [
        f"{name}.{attribute}"
        for private in (PRIVATE, asyncio_compat.PRIVATE)
        for name, attributes in private.items()
        for attribute in attributes
        if not hasattr(objects[name], attribute)
    ]


async def test_this_version_has_every_private_attribute_that_is_used() -> None:
    missing = lost(instances())
    assert not missing, f"nats-py or Python has lost {', '.join(missing)}"


@pytest.mark.parametrize(("name", "attribute"), [("Client", "_pongs"), ("StreamReader", "_waiter")])
async def test_an_attribute_that_an_upgrade_takes_away_is_named(name: str, attribute: str) -> None:
    objects = instances()
    delattr(objects[name], attribute)
    assert lost(objects) == [f"{name}.{attribute}"]


def _own_names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines, as functions or attributes of ``self``."""
    names = set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=attr, ctx=ast.Store()):
                names.add(attr)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMEDTUPLE


def reached(source: str, *, of_self: bool = False) -> Iterator[str]:
    """Yield the private names that a module uses of objects that are not its own.

    ``of_self``: those of ``self``, too, which a subclass inherits.
    """
    tree = ast.parse(source)
    own = _own_names(tree)
    used = {name for names in PRIVATE.values() for name in names}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=attr):
                if of_self and _is_private(attr) and (attr in used or attr not in own):
                    yield attr
            case ast.Attribute(value=value, attr=attr) if _is_private(attr):
                of_library = "client" in ast.unparse(value) or "subscription" in ast.unparse(value)
                if attr not in own or of_library:
                    yield attr
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(attr)), *_]):
                if _is_private(attr):
                    yield attr
            case ast.ImportFrom(module=str(module), names=names):
                for part in (*module.split("."), *(alias.name for alias in names)):
                    if _is_private(part):
                        yield part


def _modules() -> list[Path]:
    return sorted(path for top in ("shared", "signalling") for path in (ROOT / top).rglob("*.py"))


def _is_compat(path: Path) -> bool:
    return any(compat == path or compat in path.parents for compat in COMPAT)


@pytest.mark.parametrize(
    "path", [p for p in _modules() if not _is_compat(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_module_reaches_into_no_private_part(path: Path) -> None:
    assert list(reached(path.read_text())) == []


def test_services_reach_into_no_private_part_of_nats_py() -> None:
    used = {name for names in PRIVATE.values() for name in names if name not in ("_msg", "_id", "_status")}
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "services").rglob("*.py")
        if "compat" not in path.parts
        for name in reached(path.read_text())
        if name in used
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "bus.client._pending.clear()",
        "subscription._id",
        "getattr(transport, '_io_writer', None)",
        "from nats._private import thing",
        "from nats.aio import _client",
    ],
)
def test_reaching_into_a_private_part_is_noticed(line: str) -> None:
    assert list(reached(f"class A:\n    def f(self):\n        self._pending = []\n\n{line}\n"))


def test_compat_names_all_that_it_reaches_or_overrides() -> None:
    named = {
        name for private in (PRIVATE, asyncio_compat.PRIVATE) for names in private.values() for name in names
    }
    paths = [path for path in _modules() if _is_compat(path)]
    found = {name for path in paths for name in reached(path.read_text(), of_self=path.name == "client.py")}
    found |= set(compat_client.TASKS.values())
    found |= {
        name for name in vars(compat_client.SupervisedClient) if _is_private(name) and hasattr(Client, name)
    }
    assert found == named


def test_the_version_of_nats_py_is_pinned() -> None:
    """Private parts may change with any release."""
    assert "nats-py==" in (ROOT / "pyproject.toml").read_text()
