"""Run a service process: settings, logs, event loop, signals, start, stop."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from shared.errors import SignallingError
from shared.ids import new_id
from shared.nats.streams import DoesNotFit
from shared.observability import logs, traces
from shared.service import settings

S = TypeVar("S", bound=settings.ServiceSettings)

GC_THRESHOLDS = (20_000, 20, 50)
EXIT_UNAVAILABLE = 69
"""Exit status of a service that could not start, e.g. because NATS does not answer."""

TRACES_SECONDS = 2.0
"""Seconds for sending the last spans."""


def distribution_version() -> str:
    """Return the installed version of this distribution."""
    try:
        return version("hellotalk-signalling")
    except PackageNotFoundError:
        return "0.0.0"


def run(
    service: str,
    cls: type[S],
    start: Callable[[S, str], AbstractAsyncContextManager[object]],
    *,
    once: bool = False,
) -> None:
    """Run ``start(settings, instance)`` until SIGINT or SIGTERM; what it yields is closed in order then.

    ``once``: the instance is one that has never been before, also when the name that it was given has.
    """
    config = settings.load(cls)
    instance = config.instance_id or f"{service}-{new_id()[:8]}"
    if once and config.instance_id:
        instance = f"{instance}-{new_id()[:6]}"
    logs.configure(service, instance, config.log_level, config.log_format)
    log = logs.get(__name__)
    if config.traces_endpoint:
        traces.switch_on(
            config.traces_endpoint, config.traces_ratio, service, instance, distribution_version()
        )

    async def main() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        starting = asyncio.create_task(_enter(start(config, instance)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        stopping_first = starting.exception()
        if isinstance(stopping_first, SignallingError | OSError):
            log.error("cannot start", reason=str(stopping_first))
            wrong = isinstance(stopping_first, DoesNotFit)
            return settings.EXIT_USAGE if wrong else EXIT_UNAVAILABLE
        context = starting.result()
        _collect_seldom()
        log.info("started", version=distribution_version())
        await stopping
        log.info("stopping")
        await context.__aexit__(None, None, None)
        log.info("stopped")
        return 0

    try:
        import uvloop  # not on every platform

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        status = runner.run(main())
    traces.switch_off(TRACES_SECONDS)
    sys.exit(status)


def _collect_seldom() -> None:
    """Collect garbage seldom: objects there now stay, and few later ones are in cycles.

    With Python's defaults it looks through all sockets again and again while many connect: half a second at 5,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _enter(context: AbstractAsyncContextManager[object]) -> AbstractAsyncContextManager[object]:
    await context.__aenter__()
    return context
