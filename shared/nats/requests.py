"""Send requests over one connection to NATS, each with a reply subject of its own."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from shared.errors import Unavailable
from shared.ids import random_tokens
from shared.nats.pending_requests import Expecting, PendingRequest, PendingRequests, Reply
from shared.observability import traces
from shared.subjects import zone_of

LATE_SECONDS = 0.05
"""Seconds between two checks of requests for their timeout."""

R = TypeVar("R")


class Publish(Protocol):
    """Sends a message: :meth:`shared.nats.connection.Bus.publish`."""

    def __call__(self, subject: str, payload: bytes, reply: str, head: bytes, /) -> object:
        """Publish a message. ``head``: its NATS headers, encoded."""


class Requests:
    """Requests under way, each with a reply subject that only those who may answer it can publish to.

    A reply subject is ``<inbox>.<zone>.<mine>.<token>``. The zone is the NATS user that answers, and NATS lets each
    user publish to reply subjects of its own zone alone (deploy/nats/accounts.conf). An answer counts for the request
    whose whole reply subject it came on, so no user can answer what another one was asked.
    """

    def __init__(self, publish: Publish, loop: asyncio.AbstractEventLoop) -> None:
        self._publish = publish
        self._loop = loop
        self.inbox = ""
        """The first part of reply subjects, before the zone."""
        self.mine = ""
        """The part behind the zone, unique to this connection."""
        self._tokens = random_tokens()
        self._asking: dict[str, Expecting] = {}
        self._watching = False

    def __len__(self) -> int:
        return len(self._asking)

    def give_up(self) -> None:
        """Give up all requests under way: the connection is gone, and no answer can come over it."""
        asking, self._asking = self._asking, {}
        for expecting in asking.values():
            expecting.give_up()

    def ask(
        self,
        subject: str,
        payload: bytes,
        read: Callable[[bytes, bytes], R],
        *,
        timeout: float,
        head: bytes = b"",
        nobody_there: Callable[[], PendingRequest[R]] | None = None,
    ) -> PendingRequest[R]:
        """Send a request now, once. ``read``: makes the result of ``(data, head)`` of the answer.

        Awaiting it raises :class:`Unavailable` if no answer comes within ``timeout`` seconds. It raises
        :class:`NotSent` if NATS is away, or if no service subscribes and there is no ``nobody_there``.
        """
        asking = PendingRequest(read, self._loop.time() + timeout, self._loop, nobody_there)
        self._ask(asking, subject, payload, head)
        return asking

    def _ask(self, asking: PendingRequest[Any], subject: str, payload: bytes, head: bytes = b"") -> None:
        if traces.active is not None and traces.active.sampled():
            head = traces.active.asking(subject, asking, head)
        try:
            self.expect(asking, subject, payload, head)
        except Unavailable as error:
            asking.fail(error)

    async def request(self, subject: str, payload: bytes, *, timeout: float, head: bytes = b"") -> Reply:
        """Send a request and return its :class:`Reply`. Parameters and errors: :meth:`ask`."""
        return await self.ask(subject, payload, Reply, timeout=timeout, head=head)

    async def request_many(self, subject: str, payload: bytes, *, most: int, timeout: float) -> list[Reply]:
        """Send a request with several answers, the last with a status. Returns all of them, ``most`` at most.

        Raises :class:`Unavailable` unless the last one has come within ``timeout`` seconds.
        """
        asking = PendingRequests(most, self._loop.time() + timeout, self._loop)
        self._ask(asking, subject, payload)
        return await asking

    def expect(self, expecting: Expecting, subject: str, payload: bytes, head: bytes = b"") -> str:
        """Send a request. Answers are handed to ``expecting`` until it is given up or forgotten.

        Returns its reply subject, for :meth:`forget`. Raises :class:`Unavailable`.
        """
        # nats-py's own requests cost more: a task, a timer and a system call for each.
        reply = f"{self.inbox}.{zone_of(subject)}.{self.mine}.{next(self._tokens)}"
        self._publish(subject, payload, reply, head)
        self._asking[reply] = expecting
        if not self._watching:
            self._watching = True
            self._loop.call_later(LATE_SECONDS, self._give_up_late)
        return reply

    def forget(self, reply: str) -> None:
        """Ignore answers on a reply subject from now on."""
        self._asking.pop(reply, None)

    def hear(self, subject: str, _reply: str, payload: bytes, head: bytes) -> None:
        """Hand an answer to its request."""
        expecting = self._asking.pop(subject, None)
        if expecting is not None and expecting.take(payload, head):
            self._asking[subject] = expecting

    def _give_up_late(self) -> None:
        """Give up requests past their timeout. A check of all is cheaper than a timer for each."""
        now = self._loop.time()
        for reply in [reply for reply, expecting in self._asking.items() if expecting.until <= now]:
            if (expecting := self._asking.pop(reply, None)) is not None:
                expecting.give_up()
        self._watching = bool(self._asking)
        if self._watching:
            self._loop.call_later(LATE_SECONDS, self._give_up_late)
