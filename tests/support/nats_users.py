"""Connections of tests to a NATS that knows its users."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client

from signalling.nats_users import Passwords


class Access(NamedTuple):
    """Where NATS is, comma separated, and the passwords of its users."""

    url: str
    passwords: Passwords

    @asynccontextmanager
    async def connect(self, user: str, **options: Any) -> AsyncIterator[Client]:
        """A connection of ``user``; it does not come back when it breaks."""
        client: Client = await nats.connect(
            self.url.split(","),
            user=user,
            password=self.passwords.of(user),
            inbox_prefix=f"_INBOX.{user}.test",
            allow_reconnect=False,
            **options,
        )
        try:
            yield client
        finally:
            await client.close()
