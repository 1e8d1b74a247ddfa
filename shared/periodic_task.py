"""Run a function every few seconds."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import SignallingError
from shared.observability import logs

log = logs.get(__name__)

LOG_SECONDS = 10.0
"""Least time between two log lines about failures of one task."""
STOP_SECONDS = 5.0
"""Seconds for a cancelled task to end."""
_CANCEL_AGAIN_SECONDS = 0.05


class PeriodicTask:
    """Runs ``work`` every ``seconds`` seconds, in a task named ``name``, from :meth:`start` to :meth:`stop`.

    The pause begins when ``work`` has returned. ``seconds`` may be a function, which is called before each pause.
    ``at_once``: run ``work`` at the start, too. What ``work`` raises is logged, at most every :data:`LOG_SECONDS`, and
    ``work`` runs again after the next pause.
    """

    def __init__(
        self,
        name: str,
        seconds: float | Callable[[], float],
        work: Callable[[], Awaitable[None] | None],
        *,
        at_once: bool = False,
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._work = work
        self._at_once = at_once
        self._task: asyncio.Task[None] | None = None
        self._log_at = float("-inf")
        self._unlogged = 0

    @property
    def running(self) -> bool:
        """True from :meth:`start` to :meth:`stop`."""
        return self._task is not None

    def start(self) -> None:
        """Begin. Needs a running event loop. Raises ``RuntimeError`` if the task is running."""
        if self._task is not None:
            raise RuntimeError(f"{self._name} is running")
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Cancel ``work``, and return when it has ended; at most :data:`STOP_SECONDS` later."""
        task, self._task = self._task, None
        if task is None:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + STOP_SECONDS
        while not task.done():
            if loop.time() > until:
                log.error("periodic task does not stop", task=self._name)
                return
            # More than once: asyncio.wait_for drops a cancellation that comes together with its result (Python 3.11).
            task.cancel()
            await asyncio.wait((task,), timeout=_CANCEL_AGAIN_SECONDS)

    async def _run(self) -> None:
        if self._at_once:
            await self._once()
        while True:
            await asyncio.sleep(self._seconds() if callable(self._seconds) else self._seconds)
            await self._once()

    async def _once(self) -> None:
        try:
            result = self._work()
            if result is not None:
                await result
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._log(error)  # ``work`` awaited something that was cancelled; this task was not
        except Exception as error:  # noqa: BLE001 - logged
            self._log(error)

    def _log(self, error: BaseException) -> None:
        self._unlogged += 1
        now = asyncio.get_running_loop().time()
        if now < self._log_at:
            return
        if isinstance(error, SignallingError):
            log.warning(
                "periodic task postponed", task=self._name, reason=error.message, failures=self._unlogged
            )
        else:
            log.error("periodic task failed", task=self._name, failures=self._unlogged, exc_info=error)
        self._log_at, self._unlogged = now + LOG_SECONDS, 0
