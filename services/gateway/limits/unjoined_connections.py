"""Connections that have not joined, by address: how many there are, and which makes room for another."""

from collections.abc import Iterable


class UnjoinedConnections:
    """Connections in the order they began, by address; addresses by how many connections they have.

    Each operation takes the same time however many connections there are.
    """

    def __init__(self) -> None:
        self._address: dict[str, str] = {}
        self._of: dict[str, dict[str, None]] = {}
        self._with: dict[int, dict[str, None]] = {}
        """Number of connections → addresses that have so many, longest first."""
        self._most = 0

    def __len__(self) -> int:
        return len(self._address)

    def __contains__(self, connection: str) -> bool:
        return connection in self._address

    def add(self, connection: str, address: str) -> None:
        """A connection has begun, or is to be counted again."""
        if connection in self._address:
            return
        self._address[connection] = address
        connections = self._of.setdefault(address, {})
        connections[connection] = None
        self._moved(address, len(connections) - 1, len(connections))

    def discard(self, connection: str) -> None:
        """It has joined, or is gone, or need not be counted for another reason."""
        if (address := self._address.pop(connection, None)) is None:
            return
        connections = self._of[address]
        del connections[connection]
        self._moved(address, len(connections) + 1, len(connections))
        if not connections:
            del self._of[address]

    def makes_room(self, address: str) -> str | None:
        """Return the connection to close for one from ``address``: the oldest of the address that has most.

        ``None`` if no address has more than this one.
        """
        if self._most <= len(self._of.get(address, ())):
            return None
        return _first(self._of[_first(self._with[self._most])])

    def _moved(self, address: str, before: int, now: int) -> None:
        if before:
            addresses = self._with[before]
            del addresses[address]
            if not addresses:
                del self._with[before]
        if now:
            self._with.setdefault(now, {})[address] = None
        if now > self._most or self._most not in self._with:
            self._most = now  # one more or one less than it was


def _first(keys: Iterable[str]) -> str:
    return next(iter(keys))
