"""The NATS server of a running system: an embedded one that is kept running, or one that is there already."""

import asyncio
import contextlib
import logging
from pathlib import Path

from nats.aio.client import Client

from signalling.child import BACKOFF_FIRST_SECONDS, BACKOFF_LONGEST_SECONDS, Say, describe
from signalling.nats_server import EmbeddedNats, NatsServerError
from signalling.plan import PlanError

CONNECT_SECONDS = 3
START_LEFT_SECONDS = 0.5
"""How long a start that is under way may take when it is time to stop."""
LOOK_SECONDS = 0.1


async def check(url: str) -> None:
    """Raises :class:`PlanError` unless there is a NATS server with JetStream at ``url``."""
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # it says the same again, with a traceback
    client = Client()
    try:
        async with asyncio.timeout(CONNECT_SECONDS * 2):
            await client.connect(
                url, connect_timeout=CONNECT_SECONDS, allow_reconnect=False, max_reconnect_attempts=0
            )
            await client.jetstream().account_info()
    except TimeoutError:
        raise PlanError(f"NATS at {url} cannot be used: no answer") from None
    except Exception as error:  # noqa: BLE001 - whatever the client library makes of a wrong address
        reason = str(error).removeprefix("nats: ") or type(error).__name__
        raise PlanError(f"NATS at {url} cannot be used: {reason}") from None
    finally:
        with contextlib.suppress(Exception):
            await client.close()


class Broker:
    """An embedded nats-server; when it dies it is started again, on its port and its store."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._server = EmbeddedNats(folder, die_with_parent=True)
        self._say = say
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, once it has been started."""
        return self._server.url

    async def start(self) -> None:
        """Start it and keep it running. Raises :class:`PlanError` if it cannot be started."""
        try:
            await self._launch()
        except (NatsServerError, OSError) as error:
            raise PlanError(str(error)) from None
        self._task = asyncio.create_task(self._keep(), name="keep nats")

    async def stop(self, seconds: float) -> None:
        """Stop it in good order; SIGKILL after that time."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=START_LEFT_SECONDS)
            if not self._task.done():
                self._server.kill()  # which ends the start that it waits for
                await asyncio.wait({self._task})
        await asyncio.to_thread(self._server.stop, seconds)

    async def _launch(self) -> None:
        self._server.launch()  # here and not in a worker thread: the server goes when the thread goes
        await asyncio.to_thread(self._server.wait)

    async def _keep(self) -> None:
        delay = BACKOFF_FIRST_SECONDS
        while not await self._stopped(LOOK_SECONDS):
            if (end := self._server.ended) is None:
                continue
            self._say(f"nats ended ({describe(*end)}); starting it again")
            try:
                await self._launch()
                delay = BACKOFF_FIRST_SECONDS
            except (NatsServerError, OSError) as error:
                self._say(f"nats: {error}; next try in {delay:.1f} s")
                await self._stopped(delay)
                delay = min(delay * 2, BACKOFF_LONGEST_SECONDS)

    async def _stopped(self, seconds: float) -> bool:
        """Wait that long, or less if it is to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()
