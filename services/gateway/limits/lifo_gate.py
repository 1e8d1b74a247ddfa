"""Who goes first when many come at once: the one that came last.

Thousands of clients whose gateway died come within seconds, more than can be let in as fast as they come. In the order
of their coming each would wait for all before it, and so would everybody else who joins meanwhile. The other way round
most of them are let in at once; the few that wait are let in when fewer come.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class TickGate:
    """Lets one through in each turn of the event loop, so that no turn takes much longer than one does."""

    def __init__(self, most: int) -> None:
        """``most``: how many may wait."""
        self._most = most
        self._waiting: deque[tuple[asyncio.Future[bool], Callable[[], bool]]] = deque()
        self._taken = False

    async def through(self, there: Callable[[], bool]) -> bool:
        """Wait until it is one's turn. False: there is nobody any more for whom it would be.

        ``there``: whether there still is. With more than ``most`` who wait, whoever has waited longest is sent away.
        """
        if not self._taken:
            self._taken = True
            asyncio.get_running_loop().call_soon(self._next)
            return True
        if len(self._waiting) >= self._most:
            self._let(self._waiting.popleft()[0], False)
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, there))
        return await turn

    def _next(self) -> None:
        while self._waiting:
            turn, there = self._waiting.pop()
            if turn.done():
                continue
            self._let(turn, there())
            if turn.result():
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False

    @staticmethod
    def _let(turn: "asyncio.Future[bool]", go: bool) -> None:
        if not turn.done():
            turn.set_result(go)


class LifoGate:
    """So many at a time."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until it is one's turn, which lasts as long as this."""
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
