"""Requests over NATS under way, and what comes back for them."""

import asyncio
from typing import NamedTuple, Protocol

from shared.errors import Unavailable


class Answer(NamedTuple):
    """What came back for a request. ``head``: its NATS headers as they came."""

    data: bytes
    head: bytes

    @property
    def nobody_there(self) -> bool:
        """Whether NATS itself says that nobody could take the request."""
        return self.head.startswith(b"NATS/1.0 503")

    @property
    def headers(self) -> dict[str, str]:
        """Its headers; ``Status`` and ``Description`` where the server says something."""
        first, *lines = self.head.decode().split("\r\n")
        _, status, description = (*first.split(" ", 2), "", "")[:3]
        said = {"Status": status, "Description": description} if status else {}
        pairs = (line.partition(":") for line in lines if line)
        return said | {key: value.strip() for key, _, value in pairs}


class Expecting(Protocol):
    """Whoever is to hear what comes back for a request."""

    def take(self, answer: Answer) -> None:
        """An answer has come."""

    def give_up(self) -> None:
        """No answer will come over this connection."""


class Asking:
    """A request under way. ``before``: the answers before the last one, ``most`` at most, if there may be several."""

    def __init__(self, before: list[Answer] | None = None, most: int = 1) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.before = before
        self._most = most

    def take(self, answer: Answer) -> None:
        """An answer has come."""
        if self.answer.done():
            return
        if self.before is None or "Status" in answer.headers:
            self.answer.set_result(answer)
        elif len(self.before) < self._most:
            self.before.append(answer)
        else:
            self.give_up()

    def give_up(self) -> None:
        """No answer will come: whoever waits gets :class:`Unavailable`."""
        if not self.answer.done():
            self.answer.set_exception(Unavailable())
