"""A call that goes on beside an attack: how long its messages take, and that nothing else happens to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.support.cluster import Cluster
from tests.support.inbox import Inbox
from tests.support.raw_client import RawClient
from tests.support.scenario import talk

EVERY_SECONDS = 0.05
"""As often as the default rate of candidates allows for ever."""
QUIET_SECONDS = 1.5
RATIO = 3.0
FLOOR_SECONDS = 0.030
"""Less than this nobody notices, and on two processors that have much to do it is nobody's fault."""
TRIES = 3
"""An attack that disturbs disturbs each time; whatever else the machine does, does not."""
ARRIVE_SECONDS = 10.0
LATE_SECONDS = 0.005
"""By so much who measures may be late himself; what he measured meanwhile does not count."""
COUNT_LEAST = 20


class Disturbed(AssertionError):
    """Its messages took too long."""


class Times(NamedTuple):
    """Seconds that messages took: the middle one, and the one that one in a hundred exceeds."""

    p50: float
    p99: float


class _Box(Inbox):
    """Notes when candidates came."""

    def __init__(self, name: str, came: list[float]) -> None:
        super().__init__(name)
        self._came = came

    def put(self, event: str, data: Any) -> None:
        if event == "ice:candidate":
            self._came.append(time.monotonic())
        else:
            super().put(event, data)


class Beside:
    """The call. Its messages say that there are no more candidates; each counts as one (``CANDIDATES_PER_CALL``)."""

    def __init__(self, caller: RawClient, callee: RawClient) -> None:
        self._clients = caller, callee
        self._came: list[float] = []
        self._sent: list[float] = []
        callee.inbox = _Box(callee.name, self._came)
        self._frame = ""
        self._late: list[tuple[float, float]] = []
        """From when until when the one who measures was not there to do it."""
        self._quiet: Times | None = None
        """The shortest that messages have taken when nothing was beside them."""

    @classmethod
    @asynccontextmanager
    async def on(cls, cluster: Cluster, token: Callable[[str], str]) -> "AsyncIterator[Beside]":
        """A call between two gateways. ``token``: of a user."""
        clients = [RawClient("beside-caller"), RawClient("beside-callee")]
        call = cls(*clients)
        try:
            for client, gateway in zip(clients, cluster.gateways, strict=True):
                client.auth = {"token": token(client.name)}
                await client.connect(gateway.url)
                await client.join(client.name)
            id_ = await talk(*clients)
            a, b = clients
            call._frame = (
                f'42["ice:candidate",{{"candidate":null,"from":"{a.user}","to":"{b.user}","callId":"{id_}"}}]'
            )
            await call.measure(0.5)  # whatever is slow the first time
            yield call
            await a.ok("call:end", {"callId": id_})
        finally:
            await asyncio.gather(*(client.disconnect() for client in clients))

    async def measure(self, seconds: float) -> Times:
        """Go on for so long; how long messages took. Fails if one does not arrive, or anything else does."""
        first, until = len(self._sent), time.monotonic() + seconds
        self._late.clear()
        watching = asyncio.create_task(self._watch())
        try:
            await self._go_on(until)
        finally:
            watching.cancel()
        for client in self._clients:
            assert not client.closed.is_set(), f"{client.name} was disconnected"
            assert not client.inbox.seen("error"), client.inbox.seen("error")
        flights = list(zip(self._sent[first:], self._came[first:], strict=True))
        fair = [(a, b) for a, b in flights if not any(start < b and a < end for start, end in self._late)]
        took = sorted(b - a for a, b in (fair if len(fair) >= COUNT_LEAST else flights))
        return Times(took[len(took) // 2], took[int(len(took) * 0.99)])

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LATE_SECONDS)
            after = time.monotonic()
            if after - before > 2 * LATE_SECONDS:
                self._late.append((before, after))

    async def _go_on(self, until: float) -> None:
        while time.monotonic() < until:
            self._sent.append(time.monotonic())
            await self._clients[0].send(self._frame)
            await asyncio.sleep(EVERY_SECONDS)
        late = time.monotonic() + ARRIVE_SECONDS
        while len(self._came) < len(self._sent):
            assert time.monotonic() < late, f"{len(self._sent) - len(self._came)} messages did not arrive"
            await asyncio.sleep(0.005)

    async def undisturbed(
        self, seconds: float, attack: Callable[[], Awaitable[Any]]
    ) -> tuple[Any, Times, Times]:
        """What the attack says of itself, and how long messages took without it and during it.

        Raises :class:`Disturbed` if they took more than :data:`RATIO` times as long, in each of :data:`TRIES`.
        """
        seen = []
        if self._quiet is None:
            self._quiet = await self.measure(QUIET_SECONDS)
        for _ in range(TRIES):
            attacking = asyncio.ensure_future(attack())
            try:
                loud = await self.measure(seconds)
                said = await attacking
            finally:
                attacking.cancel()
                await asyncio.gather(attacking, return_exceptions=True)
            if _alike(loud, self._quiet):
                return said, self._quiet, loud
            # Once more without it, because whatever else the machine does comes and goes.
            quiet = await self.measure(QUIET_SECONDS)
            self._quiet = min(quiet, self._quiet, key=lambda times: times.p99)
            if _alike(loud, quiet):
                return said, quiet, loud
            seen.append((quiet, loud))
        raise Disturbed(f"quiet and attacked: {seen}")


def _alike(loud: Times, quiet: Times) -> bool:
    return loud.p99 <= max(RATIO * quiet.p99, FLOOR_SECONDS)
