"""Several requests at once, without a task for each: a task costs about as much as a request does."""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any

Begun = asyncio.Future[Any] | Coroutine[Any, Any, Any]


class _Begun:
    """A coroutine that has run as far as it gets without waiting. Await it once for what it returns.

    It has a context of its own, as a task would.
    """

    __slots__ = ("_context", "_coroutine", "_over", "_raised", "_returned", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._context = copy_context()
        self._waits_for: Any = None
        self._returned: Any = None
        self._raised: BaseException | None = None
        self._over = False
        self._go_on()

    def _go_on(self) -> None:
        try:
            self._waits_for = self._context.run(self._coroutine.send, None)
        except StopIteration as stop:
            self._over, self._returned = True, stop.value
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            self._over, self._raised = True, error

    def __await__(self) -> Generator[Any, Any, Any]:
        while not self._over:
            # What it waits for is a future on its way to the task, or nothing but a turn of the loop.
            waits_for = self._waits_for
            if waits_for is None or not waits_for.done():
                try:
                    yield waits_for
                except BaseException as error:
                    # What the future raises is for the coroutine; anything else is for the task, which is cancelled.
                    raises = waits_for is not None and waits_for.done()
                    if not raises or not (waits_for.cancelled() or waits_for.exception() is error):
                        raise
            self._go_on()
        if self._raised is not None:
            raise self._raised
        return self._returned

    def close(self) -> None:
        """Give it up."""
        self._context.run(self._coroutine.close)


async def together(*awaitables: Begun) -> list[Any]:
    """Begin all of them, in this order, and wait for all: what each returned, or the exception that it raised.

    Futures have begun already. Coroutines must wait for nothing but futures and know nothing of their task: no
    ``asyncio.timeout`` in them. Each goes on only when those before it are done, so they should take about as long.
    """
    begun = [one if isinstance(one, asyncio.Future) else _Begun(one) for one in awaitables]
    results: list[Any] = []
    try:
        for one in begun:
            try:
                results.append(await one)
            except Exception as error:  # noqa: BLE001 - handed on
                results.append(error)
    finally:
        for one in begun[len(results) :]:  # whoever waits was cancelled
            if isinstance(one, _Begun):
                one.close()
    return results


async def all_of(*awaitables: Begun) -> list[Any]:
    """The same, but the first failure, in this order, is raised once all are done."""
    results = await together(*awaitables)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
