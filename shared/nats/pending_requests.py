"""Requests over NATS under way, and what comes back for them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from shared.errors import NotSent, Unavailable

R = TypeVar("R")

NOBODY_THERE = b"NATS/1.0 503"
"""How the headers begin by which NATS itself says that nobody could take a request."""


def head_of(headers: Mapping[str, str]) -> bytes:
    """NATS headers as they go over the wire."""
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


class Reply(NamedTuple):
    """What came back for a request. ``head``: its NATS headers as they came."""

    data: bytes
    head: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Its headers; ``Status`` and ``Description`` where the server says something."""
        first, *lines = self.head.decode().split("\r\n")
        _, status, description = (*first.split(" ", 2), "", "")[:3]
        said = {"Status": status, "Description": description} if status else {}
        pairs = (line.partition(":") for line in lines if line)
        return said | {key: value.strip() for key, _, value in pairs}


class Expecting(Protocol):
    """Whoever is to hear what comes back for a request, until it is given up."""

    until: float
    """When that is, in seconds of the event loop's clock."""

    def take(self, data: bytes, head: bytes) -> bool:
        """An answer has come. Whether there may be more of them."""

    def give_up(self) -> None:
        """No answer will come in time, or over this connection."""


class PendingRequest(asyncio.Future[R]):
    """A request under way. Await it for what ``read`` makes of the answer, or for what it raises.

    It was sent when it was made, whether somebody awaits it or not; several at once need no task each.
    ``nobody_there``: what else is asked where NATS knows nobody who could answer.
    """

    __slots__ = ("_nobody_there", "_read", "until")

    def __init__(
        self,
        read: Callable[[bytes, bytes], R],
        until: float,
        loop: asyncio.AbstractEventLoop,
        nobody_there: "Callable[[], PendingRequest[R]] | None" = None,
    ) -> None:
        super().__init__(loop=loop)
        self._read = read
        self._nobody_there = nobody_there
        self.until = until

    def take(self, data: bytes, head: bytes) -> bool:
        """An answer has come; the first is the last."""
        if self.done():
            return False  # whoever waited was cancelled
        if head and head.startswith(NOBODY_THERE):
            if self._nobody_there is None:
                self.fail(NotSent())
            else:
                self._nobody_there().add_done_callback(self._be)
            return False
        try:
            self.set_result(self._read(data, head))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            self.fail(error)
        return False

    def _be(self, other: "asyncio.Future[R]") -> None:
        if self.done():
            return
        error = other.exception()
        if isinstance(error, Exception):
            self.fail(error)
        else:
            self.set_result(other.result())

    def give_up(self) -> None:
        """No answer will come: whoever waits gets :class:`Unavailable`."""
        if not self.done():
            self.fail(Unavailable())

    def fail(self, error: Exception) -> None:
        """Raise this where it is awaited, if it is."""
        self.set_exception(error)
        self.exception()  # else asyncio complains where nobody awaits it


class PendingRequests(PendingRequest[list[Reply]]):
    """A request with several answers, the last of which carries a status: all of them, ``most`` at most."""

    __slots__ = ("_answers", "_most")

    def __init__(self, most: int, until: float, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._all, until, loop)
        self._answers: list[Reply] = []
        self._most = most

    def _all(self, _data: bytes, _head: bytes) -> list[Reply]:
        return self._answers

    def take(self, data: bytes, head: bytes) -> bool:
        """An answer has come; whether it was not the last."""
        answer = Reply(data, head)
        self._answers.append(answer)
        if "Status" in answer.headers:
            return super().take(data, head)
        if len(self._answers) > self._most:
            self.give_up()
        return not self.done()
