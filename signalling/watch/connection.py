"""The connection of the tools that watch: read only, and told in one line if there is none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from shared import logs, settings
from shared.bus import Bus
from shared.errors import Unavailable
from shared.ids import new_id
from shared.settings import ServiceSettings

USER = "monitor"
"""The NATS user that may read and not write, and the beginning of the inboxes that it may have."""
CONNECT_SECONDS = 5.0


@asynccontextmanager
async def connected(url: str | None) -> AsyncIterator[Bus]:
    """NATS at ``url``, else where the environment and ``.env`` say. Raises :class:`click.ClickException`."""
    config = settings.load(ServiceSettings)
    logs.configure("signalling", USER, "error", "console")
    try:
        bus = await Bus.connect(
            url or config.nats_url, name=f"{USER}-{new_id()[:6]}", timeout=CONNECT_SECONDS
        )
    except Unavailable as error:
        raise click.ClickException(error.message) from None
    try:
        yield bus
    finally:
        await bus.close()
