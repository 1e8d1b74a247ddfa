"""Place one call between two users as clients of the gateways, step by step, for ``signalling probe``."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, NamedTuple

import aiohttp
import socketio
import socketio.exceptions
from socketio.packet import DISCONNECT, Packet

from shared.contracts.client import Event
from shared.observability.escaping import printable

_OFFER = {"type": "offer", "sdp": "v=0\r\ns=probe\r\n"}
_ANSWER = {"type": "answer", "sdp": "v=0\r\ns=probe\r\n"}
_CANDIDATE = {"candidate": "", "sdpMid": "0"}


class Step(NamedTuple):
    """Describes one step. ``error``: why it failed; a failed step is the last one."""

    name: str
    ms: float
    error: str | None = None


class _Refused(Exception):
    """Raised if the server refuses an event; the text is its code and message."""


class _Phone:
    """Connects one user, and queues the events that the server sends."""

    def __init__(self, user: str, token: str | None) -> None:
        self.user = user
        self._auth = None if token is None else {"token": token}
        self._sio = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        self._got: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(1_000)
        self._sio.on("*", self._on_event)

    async def _on_event(self, event: str, *args: Any) -> None:
        if not self._got.full():
            self._got.put_nowait((event, args[0] if args else None))

    async def connect(self, url: str, transport: str, seconds: float) -> None:
        await self._sio.connect(url, auth=self._auth, transports=[transport], wait_timeout=seconds)

    async def ask(self, event: Event, payload: dict[str, Any]) -> dict[str, Any]:
        """Send an event and return its acknowledgement. Raises :class:`_Refused`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(*args: Any) -> None:
            if not answer.done():
                answer.set_result(args[0] if args else None)

        await self._sio.emit(event, payload, callback=answered)
        ack = await answer
        if not isinstance(ack, dict) or not ack.get("ok"):
            error = ack.get("error", {}) if isinstance(ack, dict) else {}
            raise _Refused(f"{event} refused: {error.get('code')}: {error.get('message')}")
        return ack

    async def expect(self, event: Event, call: str) -> None:
        """Wait for ``event`` about ``call``; other events are ignored."""
        while True:
            name, data = await self._got.get()
            if name == event and isinstance(data, dict) and data.get("callId") == call:
                return

    async def close(self) -> None:
        """Leave and disconnect: without the leave, the server would keep the session for a resume."""
        if self._sio.connected:
            # The library closes its websocket before it has sent the packet that says so; here it is sent first.
            await self._sio.eio.send(Packet(DISCONNECT, namespace="/").encode())
            await self._sio.eio.queue.join()
        await self._sio.disconnect()


class Probe:
    """Places the call. ``caller``, ``callee``: user and token. ``seconds``: limit of each step.

    ``steps``: what has been done, with how long each took.
    """

    def __init__(
        self,
        url: str,
        caller: tuple[str, str | None],
        callee: tuple[str, str | None],
        *,
        transport: str,
        seconds: float,
    ) -> None:
        self._url = url
        self._users = (caller, callee)
        self._transport = transport
        self._seconds = seconds
        self.steps: list[Step] = []

    @property
    def ok(self) -> bool:
        """True if every step succeeded."""
        return bool(self.steps) and self.steps[-1].error is None

    async def run(self) -> None:
        """Do all steps, or as many as work."""
        caller, callee = (_Phone(user, token) for user, token in self._users)
        try:
            await self._call(caller, callee)
        except _Failed:
            return
        finally:
            await asyncio.gather(self._leave(caller), self._leave(callee))

    async def _call(self, caller: _Phone, callee: _Phone) -> None:
        both = (caller, callee)
        connecting = (phone.connect(self._url, self._transport, self._seconds) for phone in both)
        await self._step("connect", *connecting)
        await self._step("join", *(phone.ask(Event.JOIN, {"userId": phone.user}) for phone in both))
        ring = {"to": callee.user, "callType": "audio"}
        (ack,) = await self._step("call:initiate", caller.ask(Event.INITIATE, ring))
        call = str(ack["callId"])
        await self._step("call:incoming", callee.expect(Event.INCOMING, call))
        accepted = (phone.expect(Event.ACCEPTED, call) for phone in both)
        await self._step("call:accept", callee.ask(Event.ACCEPT, {"callId": call}), *accepted)
        for name, sender, receiver, event, what in (
            ("call:offer", caller, callee, Event.OFFER, {"offer": _OFFER}),
            ("call:answer", callee, caller, Event.ANSWER, {"answer": _ANSWER}),
            ("ice:candidate", caller, callee, Event.CANDIDATE, {"candidate": _CANDIDATE}),
        ):
            relay = {**what, "from": sender.user, "to": receiver.user, "callId": call}
            await self._step(name, sender.ask(event, relay), receiver.expect(event, call))
        ended = (phone.expect(Event.ENDED, call) for phone in both)
        await self._step("call:end", caller.ask(Event.END, {"callId": call}), *ended)

    async def _step(self, name: str, *doing: Awaitable[Any]) -> list[Any]:
        """Run one step within its time limit. Raises :class:`_Failed`."""
        begun = time.perf_counter()
        error = None
        done: list[Any] = []
        try:
            async with asyncio.timeout(self._seconds):
                done = await asyncio.gather(*doing)
        except TimeoutError:
            error = f"nothing within {self._seconds:g} s"
        except (
            _Refused,
            socketio.exceptions.SocketIOError,
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as problem:
            error = printable(str(problem)) or type(problem).__name__
        self.steps.append(Step(name, (time.perf_counter() - begun) * 1000, error))
        if error is not None:
            raise _Failed
        return done

    async def _leave(self, phone: _Phone) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await phone.close()
        except (TimeoutError, socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError):
            return  # it is thrown away


class _Failed(Exception):
    """Raised if a step fails; it is the last of ``steps``."""
