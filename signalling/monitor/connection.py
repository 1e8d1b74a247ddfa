"""Connect the observing commands to NATS, read only; a failure is reported in one line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from shared.errors import Unavailable
from shared.ids import new_id
from shared.nats.connection import Bus
from shared.observability import logs
from shared.service import settings
from shared.service.settings import ServiceSettings
from signalling.nats_users import MONITOR

CONNECT_SECONDS = 5.0


@asynccontextmanager
async def connected(url: str | None, *, quiet: bool = False) -> AsyncIterator[Bus]:
    """Connect to NATS at ``url``, else as the environment and ``.env`` say. Raises :class:`click.ClickException`.

    ``quiet``: True if errors of the connection are not printed on stderr, because a screen is shown.
    """
    config = settings.load(ServiceSettings)
    logs.configure("signalling", MONITOR, "error" if quiet else "warning", "console")
    try:
        bus = await Bus.connect(
            url or config.nats_url,
            name=f"tools-{new_id()[:6]}",
            inboxes=MONITOR,
            login=config.nats_login(),
            timeout=CONNECT_SECONDS,
        )
    except Unavailable as error:
        raise click.ClickException(error.message) from None
    try:
        yield bus
    finally:
        await bus.close()
