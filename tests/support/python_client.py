"""The client of python-socketio behind the tests' interface."""

import asyncio
from typing import Any

import socketio
from engineio.payload import Payload
from socketio.packet import DISCONNECT, Packet

from tests.support.client import POLLING, WEBSOCKET, Client
from tests.support.inbox import PATIENCE_SECONDS

# The library refuses an answer to a poll with more than 16 packets, whoever sent it; other clients have no such bound.
Payload.max_decode_packets = 100_000


class PythonClient(Client):
    """``socketio.AsyncClient``, with everything that comes recorded."""

    def __init__(self, name: str, transport: str = WEBSOCKET) -> None:
        super().__init__(name, transport)
        self._sio = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        self._sio.on("*", self._on_event)
        self._sio.on("disconnect", self._on_disconnect)

    async def _on_event(self, event: str, *args: Any) -> None:
        self.inbox.put(event, args[0] if args else None)

    async def _on_disconnect(self, *_: Any) -> None:
        self.closed.set()

    @property
    def socket_id(self) -> str:
        return str(self._sio.get_sid())

    async def connect(self, url: str) -> None:
        await self._sio.connect(
            url, auth=self.auth, transports=[self.transport], wait_timeout=PATIENCE_SECONDS
        )

    async def emit(self, event: str, *args: Any) -> None:
        await self._sio.emit(event, args or None)

    async def ask(self, event: str, *args: Any, timeout: float = PATIENCE_SECONDS) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(*values: Any) -> None:
            if not answer.done():
                answer.set_result(values[0] if values else None)

        await self._sio.emit(event, args or None, callback=answered)
        try:
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise AssertionError(f"{self.name}: {event} is not acknowledged in {timeout} s") from None

    async def burst(self, event: str, template: dict[str, Any], field: str, count: int) -> None:
        for n in range(count):
            await self._sio.emit(event, {**template, field: {**template[field], "n": n}})
            if n % 64 == 0:
                # Over polling the library sends all it has in one body, however large; servers bound what they read.
                await (self._sio.eio.queue.join() if self.transport == POLLING else asyncio.sleep(0))

    async def disconnect(self) -> None:
        if self._sio.connected:
            # The library closes its websocket before it has sent the packet that says so; here it is sent first.
            await self._sio._send_packet(Packet(DISCONNECT, namespace="/"))
            await asyncio.wait({asyncio.create_task(self._sio.eio.queue.join())}, timeout=PATIENCE_SECONDS)
        leaving = asyncio.create_task(self._sio.disconnect())
        await asyncio.wait({leaving}, timeout=0.1)
        leaving.cancel()  # it may wait for the end of a poll that is of no use any more
        await asyncio.gather(leaving, return_exceptions=True)
        if self._sio.eio.http is not None:
            await self._sio.eio.http.close()
        self.closed.set()

    async def tear(self) -> None:
        response = self._sio.eio.ws._response
        response.connection.transport.abort()
