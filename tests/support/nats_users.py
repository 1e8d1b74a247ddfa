"""Connections of tests to a NATS that knows its users."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from nats.aio.client import Client

from shared.nats.compat.client import SupervisedClient
from signalling.nats_users import Passwords

ANSWER_SECONDS = 30.0


class Access(NamedTuple):
    """Where NATS is, comma separated, and the passwords of its users."""

    url: str
    passwords: Passwords

    @asynccontextmanager
    async def connect(self, user: str, *, zone: str = "nats", **options: Any) -> AsyncIterator[Client]:
        """A connection of ``user``; it does not come back when it breaks.

        ``zone``: the user that answers its requests.
        """
        client = SupervisedClient()  # whose flush waits for its subscriptions, too
        await client.connect(
            self.url.split(","),
            user=user,
            password=self.passwords.of(user),
            inbox_prefix=f"_INBOX.{user}.{zone}.test",
            allow_reconnect=False,
            **options,
        )
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def act(self, user: str | None, password: str | None = None) -> "AsyncIterator[Actor]":
        """The bare protocol as ``user``, with a password of its own or this one."""
        host, _, port = self.url.rpartition("/")[2].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            login = {"user": user, "pass": password or self.passwords.of(user)} if user is not None else {}
            actor = Actor(reader, writer)
            await reader.readline()  # INFO
            writer.write(
                b"CONNECT " + json.dumps({"verbose": False, "headers": True, **login}).encode() + b"\r\n"
            )
            yield actor
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


class Actor:
    """A connection that sees what the server answers, in order: what is refused is refused before the next PONG."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0

    async def may_publish(self, subject: str) -> bool:
        """Whether the server takes a message at ``subject``."""
        return await self._errors(f"PUB {subject} 0\r\n") == []

    async def may_subscribe(self, subject: str, queue: str = "") -> bool:
        """Whether the server lets it listen at ``subject``."""
        self._number += 1
        allowed = await self._errors(f"SUB {subject} {queue} {self._number}") == []
        await self._errors(f"UNSUB {self._number}")
        return allowed

    async def is_let_in(self) -> bool:
        """Whether the server takes who it is."""
        return await self._errors("") == []

    async def _errors(self, command: str) -> list[str]:
        self._writer.write(f"{command}\r\nPING\r\n".encode() if command else b"PING\r\n")
        found: list[str] = []
        async with asyncio.timeout(ANSWER_SECONDS):
            while (line := await self._reader.readline()) != b"PONG\r\n":
                if line.startswith(b"-ERR"):
                    found.append(line.decode())
                    if b"Authorization Violation" in line:
                        return found  # the server closes
                assert line or found, "closed without a reason"
                if not line:
                    return found
        assert all("Permissions Violation" in error for error in found), found
        return found
