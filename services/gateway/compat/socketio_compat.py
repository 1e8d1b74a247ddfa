"""Name the parts of python-socketio in use that its documentation does not promise. No other module reaches them.

Its version is pinned exactly; `tests/unit/gateway/test_compat.py` names what an upgrade takes away.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import socketio
from bidict import ValueDuplicationError

from services.gateway.compat.engineio_compat import Environ, Server

INTERNAL: Final[dict[str, dict[str, str]]] = {
    "AsyncManager": {
        "pre_connect": "registers a connection; a room of its own for each makes leaving slow",
        "basic_enter_room": "what remains of that",
        "pending_connect": "where the library keeps connections whose handler has not answered",
        "server": "the Socket.IO server, whose Engine.IO server makes ids",
    },
}
"""Class → attribute without an underscore → why it is used."""

_DISCONNECT = "1"
"""A Socket.IO disconnect packet of the default namespace."""


class Manager(Protocol):
    """Describes what is used of Socket.IO's client manager. ``sid``: of a namespace; ``eio_sid``: of Engine.IO."""

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> str | None:
        """Return the namespace's id of a connection; ``None`` if it is not connected to it."""

    def eio_sid_from_sid(self, sid: str, namespace: str) -> str:
        """Return the connection of a namespace's id."""

    def is_connected(self, sid: str, namespace: str) -> bool:
        """Return True if the connect packet has been answered."""


class OneRoomManager(socketio.AsyncManager):  # type: ignore[misc]  # untyped
    """Keep all clients in one room. With a room for each, leaving takes time in proportion to the number of clients."""

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """Return the id of a socket that connects; ``None`` if its connection has one in the namespace."""
        sid: str = self.server.eio.generate_id()
        try:
            self.basic_enter_room(sid, namespace, None, eio_sid=eio_sid)
        except ValueDuplicationError:
            return None  # connected already
        self.pending_connect.setdefault(namespace, []).append(sid)
        return sid


class LibraryHandlers:
    """Call python-socketio's own handlers of Engine.IO's events, in whose place ours are registered."""

    __slots__ = ("_connected", "_disconnected", "_message")

    def __init__(self, server: Server) -> None:
        handlers: dict[str, Callable[..., Any]] = server.handlers
        self._connected, self._disconnected = handlers["connect"], handlers["disconnect"]
        self._message = handlers["message"]

    async def connected(self, eio_sid: str, environ: Environ) -> None:
        """Note a new Engine.IO connection."""
        await self._connected(eio_sid, environ)

    async def disconnected(self, eio_sid: str, reason: str) -> None:
        """Note that an Engine.IO connection has ended."""
        await self._disconnected(eio_sid, reason)

    async def connect_packet(self, eio_sid: str, packet: str) -> None:
        """Handle a checked connect packet."""
        await self._message(eio_sid, packet)

    async def disconnect_packet(self, eio_sid: str) -> None:
        """Handle a disconnect packet of the default namespace."""
        await self._message(eio_sid, _DISCONNECT)
