"""Requests over NATS that are under way, and their answers."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from shared.errors import NotSent, Unavailable

R = TypeVar("R")

NOBODY_THERE = b"NATS/1.0 503"
"""The headers begin so where NATS says that no service subscribes to a request's subject (no responders)."""


def head_of(headers: Mapping[str, str]) -> bytes:
    """Return NATS headers in their wire format."""
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


class Reply(NamedTuple):
    """The answer to a request. ``head``: its NATS headers in their wire format."""

    data: bytes
    head: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers; with ``Status`` and ``Description`` if NATS itself answered."""
        first, *lines = self.head.decode().split("\r\n")
        _, status, description = (*first.split(" ", 2), "", "")[:3]
        said = {"Status": status, "Description": description} if status else {}
        pairs = (line.partition(":") for line in lines if line)
        return said | {key: value.strip() for key, _, value in pairs}


class Expecting(Protocol):
    """Receives the answers to a request, until it is given up."""

    until: float
    """When it is given up, in seconds of the event loop's clock."""

    def take(self, data: bytes, head: bytes) -> bool:
        """Take an answer. Returns True if more answers may come."""

    def give_up(self) -> None:
        """Give up: no answer will come in time, or over this connection."""


class PendingRequest(asyncio.Future[R]):
    """A request under way. Awaiting it returns what ``read`` returns for the answer, or raises what it raises.

    The request was sent when this object was made, so several at once need no task each.
    ``nobody_there``: makes the request that is sent instead where no service subscribes.
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
        """Take the answer. Returns False, because there is only one."""
        if self.done():
            return False  # the task that waited was cancelled
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
        """Give up: awaiting the request raises :class:`Unavailable`."""
        if not self.done():
            self.fail(Unavailable())

    def fail(self, error: Exception) -> None:
        """Have ``error`` raised where the request is awaited, if it is."""
        self.set_exception(error)
        self.exception()  # else asyncio logs an exception that is not awaited


class PendingRequests(PendingRequest[list[Reply]]):
    """A request with several answers, the last with a status. Awaiting it returns all of them, ``most`` at most."""

    __slots__ = ("_answers", "_most")

    def __init__(self, most: int, until: float, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._all, until, loop)
        self._answers: list[Reply] = []
        self._most = most

    def _all(self, _data: bytes, _head: bytes) -> list[Reply]:
        return self._answers

    def take(self, data: bytes, head: bytes) -> bool:
        """Take an answer. Returns True unless it was the last."""
        answer = Reply(data, head)
        self._answers.append(answer)
        if "Status" in answer.headers:
            return super().take(data, head)
        if len(self._answers) > self._most:
            self.give_up()
        return not self.done()
