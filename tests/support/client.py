"""A Socket.IO client as the tests see it, whichever library is behind it."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from tests.support.inbox import PATIENCE_SECONDS, Inbox, Received

POLLING, WEBSOCKET = "polling", "websocket"


class Client(ABC):
    """One socket. Connect, join, emit; expect what comes."""

    def __init__(self, name: str, transport: str) -> None:
        self.name = name
        self.transport = transport
        self.auth: dict[str, Any] | None = None
        """What goes along when it connects."""
        self.user = ""
        self.session = ""
        self.inbox = Inbox(name)
        self.closed = asyncio.Event()

    # --- what a library does ---

    @property
    @abstractmethod
    def socket_id(self) -> str:
        """``socket.id`` as the client knows it."""

    @abstractmethod
    async def connect(self, url: str) -> None:
        """Connect to namespace ``/`` over :attr:`transport` and nothing else."""

    @abstractmethod
    async def emit(self, event: str, *args: Any) -> None:
        """Send without asking for an acknowledgement."""

    @abstractmethod
    async def ask(self, event: str, *args: Any, timeout: float = PATIENCE_SECONDS) -> Any:
        """Send and return the acknowledgement."""

    @abstractmethod
    async def burst(self, event: str, template: dict[str, Any], field: str, count: int) -> None:
        """Send ``template`` ``count`` times as fast as it goes, ``field.n`` counting from 0."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Leave on purpose: a Socket.IO disconnect packet. Nothing happens if the socket is closed already."""

    @abstractmethod
    async def tear(self) -> None:
        """Break the transport without a word."""

    # --- what follows from it ---

    async def expect(self, event: str, /, *, timeout: float = PATIENCE_SECONDS, **match: Any) -> Any:
        """The payload of the first ``event`` not taken yet that matches."""
        return await self.inbox.expect(event, timeout=timeout, **match)

    async def join(self, user: str, **extra: Any) -> dict[str, Any]:
        """Join as ``user``; the payload of ``user:joined``."""
        await self.emit("user:join", {"userId": user, **extra})
        joined: dict[str, Any] = await self.expect("user:joined")
        self.user, self.session = joined["userId"], joined["sessionId"]
        return joined

    async def ok(self, event: str, payload: Any, *, timeout: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Send something that must succeed; the acknowledgement."""
        ack = await self.ask(event, payload, timeout=timeout)
        assert isinstance(ack, dict) and ack.get("ok") is True, f"{self.name}: {event} answered {ack}"
        return ack

    async def refused(self, event: str, *args: Any, code: str | None = None) -> dict[str, Any]:
        """Send something that must be refused; the error, once acknowledgement and ``error`` event agree."""
        ack = await self.ask(event, *args)
        assert isinstance(ack, dict) and ack.get("ok") is False, f"{self.name}: {event} {args} answered {ack}"
        error: dict[str, Any] = ack["error"]
        told = await self.expect("error", event=event)
        assert told == error | {"event": event}, f"error event {told} against acknowledgement {error}"
        if code is not None:
            assert error["code"] == code, error
        return error

    async def expect_closed(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until the socket is closed."""
        try:
            async with asyncio.timeout(timeout):
                await self.closed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} is still connected after {timeout} s") from None

    async def settle(self) -> None:
        """A round trip through gateway and bus: what was on its way to this client before is there afterwards."""
        if self.user and not self.closed.is_set():
            try:
                await self.ok("user:status", {"userId": self.user})
            except ConnectionError:
                return  # closed meanwhile: nothing more is on its way
            await self.expect("user:status", userId=self.user)

    async def quiet(self) -> None:
        """Nothing has come that was not expected."""
        await self.settle()
        left: list[Received] = self.inbox.leftovers()
        assert not left, f"{self.name} got what nobody expected: {left[:10]}"
