"""Send packets to clients: write them at once, or queue them, within bounds, if a client polls or does not read."""

import asyncio
import json
from collections import Counter

from engineio.packet import PING, Packet

from services.gateway.compat.engineio_compat import Connection
from services.gateway.protocol.ring_time import with_ms_left
from services.gateway.transport.closer import Closer
from services.gateway.websocket.connection import WebSocket
from services.gateway.websocket.send_queue import QueuedMessage, SendQueue
from shared.clock import now_ms
from shared.observability import logs
from shared.observability.limit_hits import LimitHits

log = logs.get(__name__)

PINGS_MAX = 8
"""Pings of one connection that wait for their pongs; one more request waits for the last of them."""
READ_SECONDS = 5.0
"""Time limit of a client to read a part of what it missed. What it sends meanwhile waits."""


class Sender:
    """Send to Engine.IO connections, by id. ``unread_max``: bytes that may wait for a client.

    No packet overtakes one that waits in a connection's queue: until then its websocket accepts no other.
    """

    def __init__(
        self,
        connections: dict[str, Connection],
        websockets: dict[str, WebSocket],
        closer: Closer,
        *,
        unread_max: int,
        hits: LimitHits,
    ) -> None:
        self._connections = connections
        self._websockets = websockets
        self._closer = closer
        self._unread_max = unread_max
        self._hits = hits
        self.aborted: Counter[str] = Counter()
        """Connections that were ended because their clients do not read or answer, by reason."""
        self._pings: dict[str, list[_Ping]] = {}
        self._confirmations: dict[str, _Ping] = {}

    def send_event(self, eio_sid: str, event: str, payload: bytes) -> None:
        """Send an event whose only argument is ``payload`` (JSON, taken as it is)."""
        frame = b'42["%b",%b]' % (event.encode(), payload)
        websocket = self._websockets.get(eio_sid)
        if websocket is None or not websocket.write(frame):
            self._queue(eio_sid, frame)

    def send_ringing(self, eio_sid: str, event: str, payload: bytes) -> None:
        """Send an event with ``expiresAt``, and with the ``expiresInMs`` of the moment in which it leaves."""
        websocket = self._websockets.get(eio_sid)
        head = b'42["%b",' % event.encode()
        if websocket is None or not websocket.write(b"%b%b]" % (head, with_ms_left(payload, now_ms()))):
            self._queue(eio_sid, b"%b%b]" % (head, payload), _Ringing)

    def send_ack(self, eio_sid: str, ack_id: int, payload: bytes) -> None:
        """Acknowledge an event with ``payload`` (JSON, taken as it is)."""
        frame = b"43%d[%b]" % (ack_id, payload)
        websocket = self._websockets.get(eio_sid)
        if websocket is None or not websocket.write(frame):
            self._queue(eio_sid, frame)

    def send_connect_error(
        self, eio_sid: str, namespace: str = "", message: str = "Invalid namespace"
    ) -> None:
        """Refuse a connection to a namespace; the default message is that of Socket.IO's own server."""
        where = f"{namespace}," if namespace else ""
        frame = f"44{where}{json.dumps({'message': message}, separators=(',', ':'))}".encode()
        websocket = self._websockets.get(eio_sid)
        if websocket is None or not websocket.write(frame):
            self._queue(eio_sid, frame)

    def _queue(self, eio_sid: str, frame: bytes, kind: type[QueuedMessage] = QueuedMessage) -> None:
        """Queue a frame for a client that polls or does not read. Close the connection if too many bytes wait."""
        connection = self._connections.get(eio_sid)
        if connection is None or connection.closed:
            return
        queue: SendQueue = connection.queue
        if queue.size >= self._unread_max:
            queue.truncate()
            if eio_sid not in self._closer.closing:
                self._hits.hit("unread")
                self.aborted["unread"] += 1
                log.warning("client does not read: closing it", bytes=queue.size)
                self._closer.close_soon(eio_sid)
            return
        queue.put_nowait(kind(frame[1:]))

    def abort(self, eio_sid: str, limit: str) -> None:
        """Abort the connection of a client that has exceeded a limit of unread bytes."""
        self._hits.hit(limit)
        self.aborted[limit] += 1
        self._closer.abort(eio_sid)

    def unread(self) -> tuple[int, int]:
        """Return the bytes that wait for clients to read them, and how many clients those are."""
        sizes = [size for connection in self._connections.values() if (size := connection.queue.unread)]
        return sum(sizes), len(sizes)

    async def wait_until_read(self, eio_sid: str) -> None:
        """Wait until at most half of ``unread_max`` waits for a client, or for :data:`READ_SECONDS`."""
        connection = self._connections.get(eio_sid)
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_SECONDS
        while connection is not None and not connection.closed and loop.time() < until:
            if connection.queue.size <= self._unread_max // 2:
                return
            await asyncio.sleep(0.02)

    # --- pings ------------------------------------------------------------------------------------------------------

    def request_confirmation(self, eio_sid: str) -> None:
        """Ping a client, whose pong confirms that it has received what was sent before; see :meth:`unconfirmed`."""
        ping = self._ping(eio_sid)
        if ping is not None:
            self._confirmations[eio_sid] = ping

    def unconfirmed(self, eio_sid: str) -> bool:
        """Return True if a confirmation was requested and has not come."""
        ping = self._confirmations.get(eio_sid)
        return ping is not None and ping.pongs > 0

    def confirmation_requested_at(self, eio_sid: str) -> float | None:
        """Return when the confirmation was requested, in loop time; ``None`` if it was not."""
        ping = self._confirmations.get(eio_sid)
        return ping.at if ping is not None else None

    async def answers_ping(self, eio_sid: str, seconds: float) -> bool:
        """Ping a client. Return True if it answers within ``seconds``."""
        ping = self._ping(eio_sid)
        if ping is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                await ping.answered.wait()
        except TimeoutError:
            return False
        return True

    def last_pong_at(self, eio_sid: str) -> int | None:
        """Return when a client last answered a ping, in ms since the epoch; ``None`` if it has not yet."""
        connection = self._connections.get(eio_sid)
        return None if connection is None else connection.queue.last_pong_at

    def pong_received(self, eio_sid: str) -> None:
        """Note a pong that answers a ping. Pongs come in the order of the pings, those of the heartbeat included."""
        connection = self._connections.get(eio_sid)
        if connection is not None:
            connection.queue.last_pong_at = now_ms()
        for ping in self._pings.get(eio_sid, ()):
            ping.pongs -= 1
            if ping.pongs == 0:
                ping.answered.set()
        if pings := self._pings.get(eio_sid):
            self._pings[eio_sid] = [ping for ping in pings if ping.pongs > 0]
            if not self._pings[eio_sid]:
                del self._pings[eio_sid]

    def _ping(self, eio_sid: str) -> "_Ping | None":
        """Send a ping besides the heartbeat, which it does not change. Return ``None`` if the connection has ended."""
        connection = self._connections.get(eio_sid)
        if connection is None or connection.closed:
            return None
        websocket = self._websockets.get(eio_sid)
        waiting = self._pings.setdefault(eio_sid, [])
        if len(waiting) >= PINGS_MAX:
            return waiting[-1]
        heartbeat = websocket.awaits_pong if websocket is not None else connection.last_ping is not None
        ping = _Ping(len(waiting) + heartbeat + 1, asyncio.get_running_loop().time())
        waiting.append(ping)
        if websocket is not None:
            websocket.ping()
        else:
            connection.queue.put_nowait(Packet(PING))
        return ping

    def forget(self, eio_sid: str) -> None:
        """Discard what is kept for a connection: it has ended."""
        self._pings.pop(eio_sid, None)
        self._confirmations.pop(eio_sid, None)


class _Ping:
    """A ping to be answered. ``pongs``: how many have to come until this one is. ``at``: in loop time."""

    __slots__ = ("answered", "at", "pongs")

    def __init__(self, pongs: int, at: float) -> None:
        self.pongs, self.at = pongs, at
        self.answered = asyncio.Event()


class _Ringing(QueuedMessage):
    """An event with ``expiresAt`` that waits for a client to read it; ``expiresInMs`` is added as it leaves."""

    def frame(self) -> bytes:
        """Return the frame as it leaves now."""
        return b"4" + with_ms_left(self.data, now_ms())
