"""Name the parts of python-engineio in use that its documentation does not promise. No other module reaches them.

Its version is pinned exactly; `tests/unit/gateway/test_compat.py` names what an upgrade takes away.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

from aiohttp import web

PRIVATE: Final[dict[str, dict[str, str]]] = {
    "AsyncServer": {
        "_async": "the parts of its aiohttp driver, of which the websocket is replaced",
    },
}
"""Class → attribute → why it is used."""

Environ = dict[str, Any]
"""A request as Engine.IO's aiohttp driver describes it."""
WebSocketApp = Callable[[Environ], Awaitable[web.StreamResponse]]
"""Answers the request for a websocket of one connection."""


class Reasons(Protocol):
    """Why a connection ended: names of Engine.IO."""

    TRANSPORT_CLOSE: str
    TRANSPORT_ERROR: str
    SERVER_DISCONNECT: str


class Connection(Protocol):
    """An Engine.IO connection (``engineio.AsyncSocket``), whose transport is polling or a websocket."""

    sid: str
    server: "Server"
    queue: Any
    """The queue of packets for the client; the factory given to :func:`replace_parts` makes it."""
    last_ping: float | None
    """Time of the ping that a polling client has still to answer, in seconds since the epoch."""
    connected: bool
    """True once Engine.IO's handshake is done."""
    upgrading: bool
    """True while a polling client opens a websocket."""
    upgraded: bool
    """True once the websocket is the transport."""
    closing: bool
    closed: bool

    async def poll(self) -> list[Any]:
        """Wait for packets and return them. Raises ``QueueEmpty`` if none comes within a ping."""

    async def check_ping_timeout(self) -> bool:
        """Close the connection if its client has not answered a ping in time. Return True if it stays."""

    def schedule_ping(self) -> None:
        """Note a pong, and send the next ping of a polling client after the interval."""

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """Close the connection. ``abort``: send no close packet. ``wait``: until the client has read everything."""


class Server(Protocol):
    """An Engine.IO server (``engineio.AsyncServer``)."""

    sockets: dict[str, Connection]
    """Session id → connection."""
    handlers: dict[str, Callable[..., Any]]
    """Event → handler. python-socketio puts its own here."""
    reason: Reasons
    ping_interval: float
    ping_timeout: float
    max_http_buffer_size: int

    def on(self, event: str, handler: Callable[..., Any]) -> Any:
        """Set the handler of an event."""

    def create_queue(self) -> Any:
        """Return the queue of a new connection."""

    async def handle_request(self, request: web.Request) -> web.StreamResponse:
        """Answer an HTTP request."""

    def generate_id(self) -> str:
        """Return a session id that cannot be guessed."""


def replace_parts(
    server: Server, websocket: Callable[[Connection], WebSocketApp], queue: Callable[[], Any]
) -> None:
    """Have a server make websockets and queues of our own for its connections."""
    parts = cast(Any, server)
    parts._async = {**parts._async, "websocket": lambda handler, _server: websocket(handler.__self__)}
    parts.create_queue = queue


def request_of(environ: Environ) -> web.Request:
    """Return aiohttp's request."""
    request: web.Request = environ["aiohttp.request"]
    return request


def environ_of(request: web.Request) -> Environ:
    """Return as much of a request's description as a :data:`WebSocketApp` reads."""
    return {"aiohttp.request": request}


def asks_for_websocket(environ: Environ) -> bool:
    """Return True if a handshake asks to begin as a websocket."""
    return "HTTP_UPGRADE" in environ
