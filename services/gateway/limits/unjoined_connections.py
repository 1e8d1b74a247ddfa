"""Count connections that have not joined, and choose the one to close when there are too many."""

from collections.abc import Iterable


class UnjoinedConnections:
    """Keeps connections by address, oldest first, and addresses by their number of connections.

    Each operation takes constant time.
    """

    def __init__(self) -> None:
        self._address: dict[str, str] = {}
        self._of: dict[str, dict[str, None]] = {}
        self._with: dict[int, dict[str, None]] = {}
        """Number of connections → addresses with that number, in the order in which they reached it."""
        self._most = 0

    def __len__(self) -> int:
        return len(self._address)

    def __contains__(self, connection: str) -> bool:
        return connection in self._address

    def add(self, connection: str, address: str) -> None:
        """Count a connection, unless it is counted."""
        if connection in self._address:
            return
        self._address[connection] = address
        connections = self._of.setdefault(address, {})
        connections[connection] = None
        self._moved(address, len(connections) - 1, len(connections))

    def discard(self, connection: str) -> None:
        """Stop counting a connection."""
        if (address := self._address.pop(connection, None)) is None:
            return
        connections = self._of[address]
        del connections[connection]
        self._moved(address, len(connections) + 1, len(connections))
        if not connections:
            del self._of[address]

    def closable_for(self, address: str) -> str | None:
        """Return the connection to close for a new one from ``address``: the oldest of the address with most.

        ``None`` if no address has more connections than ``address``.
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
            self._most = now  # it changes by one at most


def _first(keys: Iterable[str]) -> str:
    return next(iter(keys))
