"""Answer HTTP requests to Engine.IO: handshakes, polls, posted bodies, and upgrades to a websocket."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qs

from aiohttp import web
from engineio.exceptions import QueueEmpty
from engineio.packet import CLOSE, PING, Packet
from engineio.payload import Payload

from services.gateway.compat import engineio_compat
from services.gateway.compat.engineio_compat import Connection, WebSocketApp
from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.limits.lifo_gate import TickGate
from services.gateway.protocol import packets
from services.gateway.protocol.packets import Malformed
from services.gateway.transport.host_check import HostAllowed
from services.gateway.websocket.send_queue import SendQueue
from shared.observability import logs
from shared.observability.limit_hits import LimitHits
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

PING_CHECK_SECONDS = 1.0
BODY_SECONDS = 10.0
"""Time limit of the body of a polling request."""
ANSWER_MAX = 128 * 1024
"""Characters of an answer that is kept in case its poll is repeated."""
WAITING_MAX = 8_192
"""Handshakes that may wait for admission."""

UNKNOWN_TRANSPORT = 0, "Transport unknown"
UNKNOWN_SESSION = 1, "Session ID unknown"
BAD_METHOD = 2, "Bad handshake method"
BAD_REQUEST = 3, "Bad request"
"""Codes and messages of Engine.IO's own server, which client developers know."""


class PollingServer(Protocol):
    """Describes what polling needs of the Socket.IO server."""

    draining: bool

    async def message(self, eio_sid: str, packet: str) -> None:
        """Handle a Socket.IO packet; the next one waits until this returns. Raises nothing."""

    async def malformed(self, eio_sid: str, what: str) -> None:
        """Answer a malformed frame."""

    async def close(self, eio_sid: str) -> None:
        """Close a connection."""

    def pong_received(self, eio_sid: str) -> None:
        """Note a pong that answers a ping."""

    def count_aborted(self, reason: str) -> None:
        """Count a connection that is aborted without a message to its client."""

    def abort(self, eio_sid: str, limit: str) -> None:
        """Abort the connection of a client that has exceeded a limit of unread bytes."""

    def frame_too_large(self) -> None:
        """Count a request that is larger than allowed."""


class HttpPolling:
    """Answer every request to an Engine.IO server, whose own code serves handshakes only.

    ``upgrade``: the application of a connection's websocket, called with an environment. ``unread_seconds``: how long
    a client may take to read an answer.
    """

    def __init__(
        self,
        eio: engineio_compat.Server,
        server: PollingServer,
        origin_allowed: Callable[[str | None, str | None], bool],
        host_allowed: HostAllowed | None,
        connections: ConnectionLimits,
        upgrade: Callable[[Connection], WebSocketApp],
        hits: LimitHits,
        *,
        unread_seconds: float,
    ) -> None:
        self._eio = eio
        self._server = server
        self._origin_allowed = origin_allowed
        self._host_allowed = host_allowed
        self._connections = connections
        self._upgrade = upgrade
        self._hits = hits
        self._unread_seconds = unread_seconds
        self._gate = TickGate(WAITING_MAX)
        self._posting: dict[str, asyncio.Event] = {}
        """Connection → set once the body that its client is posting is handled."""
        self._answers: dict[str, _Answer] = {}
        """Connection → its last poll and the answer, while its client polls."""
        self._bodies: dict[str, tuple[str, int]] = {}
        """Connection → key and hash of the body that was handled last, while its client polls."""
        self._ticks = PeriodicTask("polls", PING_CHECK_SECONDS, self._check_pings)

    def start(self) -> None:
        """Check clients that poll from now on; websockets check theirs."""
        self._ticks.start()

    async def stop(self) -> None:
        """Check them no more."""
        await self._ticks.stop()

    async def wait_for_post(self, eio_sid: str) -> None:
        """Wait until the body that a client is posting, if any, is handled."""
        if (posting := self._posting.get(eio_sid)) is not None:
            await posting.wait()

    def forget(self, eio_sid: str) -> None:
        """Discard what is kept for a connection: its client does not poll any more."""
        self._answers.pop(eio_sid, None)
        self._bodies.pop(eio_sid, None)

    async def _check_pings(self) -> None:
        """Close connections of clients that do not answer pings."""
        for eio_sid, connection in list(self._eio.sockets.items()):
            if connection.closed:
                self._eio.sockets.pop(eio_sid, None)
            elif not connection.upgraded and not connection.closing:
                try:
                    if not await connection.check_ping_timeout():
                        self._server.count_aborted("ping_timeout")
                except Exception:
                    log.exception("ping timeout not handled", connection=eio_sid)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request to Engine.IO. Raises aiohttp's HTTP errors for one that is refused."""
        if self._host_allowed is not None and not self._host_allowed(request.headers.get("Host")):
            self._hits.hit("host")
            raise web.HTTPBadRequest(text="Not a host that may be asked for: see ALLOWED_HOSTS")
        origin = request.headers.get("Origin")
        if origin is not None and not self._origin_allowed(origin, request.headers.get("Host")):
            self._hits.hit("origin")
            raise web.HTTPBadRequest(text="Not an origin that may connect")  # without quoting it
        if request.method == "OPTIONS":
            return web.Response(status=204)  # the headers are those of every answer
        if request.method not in ("GET", "POST"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "POST", "OPTIONS"))
        query = parse_qs(request.query_string)
        # The first value counts, and an empty one is none, for limits as for Engine.IO.
        eio_sid = query.get("sid", [None])[0]
        transport = query.get("transport", ["polling"])[0]
        if transport not in ("polling", "websocket"):
            raise _refused(UNKNOWN_TRANSPORT)
        if "j" in query:
            raise _refused(BAD_REQUEST)  # JSONP: no browser needs it, and any page could read such an answer
        if eio_sid is None:
            return await self._handshake(request)
        key = query.get("t", [""])[0]  # of this request and no other, as client libraries send it
        connection = self._alive(eio_sid)
        if connection.upgraded or not connection.connected:
            raise _refused(BAD_REQUEST)
        if request.method == "POST":
            return await self._post(request, eio_sid, connection, key)
        if transport == "websocket":
            return await self._upgrade(connection)(engineio_compat.environ_of(request))
        return await self._poll(request, eio_sid, connection, key)

    def _alive(self, eio_sid: str) -> Connection:
        """Return the connection of a session id. Raises HTTP 400 for one that is unknown or closed."""
        connection = self._eio.sockets.get(eio_sid)
        if connection is None or connection.closed:
            raise _refused(UNKNOWN_SESSION)
        return connection

    async def _handshake(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            raise _refused(BAD_METHOD)
        if _is_embedded(request):
            self._hits.hit("cross_site")
            refusal = web.HTTPForbidden(text="Not for pages of other sites to embed")
            refusal.force_close()  # else the visitor's address would keep the connection for a while
            raise refusal
        if self._server.draining:
            raise web.HTTPServiceUnavailable(text="Draining: connect to another server")
        self._connections.check(request)
        if not await self._gate.through(lambda: _is_there(request)) or self._server.draining:
            raise web.HTTPServiceUnavailable(text="Too many at once", headers={"Retry-After": "1"})
        self._connections.make_room(request)  # and looks again: others were let in meanwhile
        return await self._eio.handle_request(request)

    async def _poll(
        self, request: web.Request, eio_sid: str, connection: Connection, key: str
    ) -> web.StreamResponse:
        """Answer a poll with the packets that wait, or the next ones. ``key``: of this poll and no other; "" for none.

        HTTP clients, browsers too, send a GET again by themselves if their connection breaks before the answer. Then
        the answer is sent again, once: else what is in it would be lost in a connection that goes on.
        """
        last = self._answers.get(eio_sid)
        if last is not None and key == last.key and last.payload is not None and not last.repeated:
            last.repeated = True
            return await self._write(request, eio_sid, connection, last, last.payload)
        try:
            waiting = await connection.poll()
        except QueueEmpty:  # not even a ping was sent in all that time
            await connection.close(wait=False, reason=self._eio.reason.TRANSPORT_ERROR)
            raise _refused(UNKNOWN_SESSION) from None
        payload: str = Payload(packets=waiting or [Packet(CLOSE)]).encode()
        # A key that comes a third time is no key: the client sends the same always.
        constant = last is not None and key == last.key and last.repeated
        answer = _Answer(key, payload if len(payload) <= ANSWER_MAX else None)
        answer.pings = sum(packet.packet_type == PING for packet in waiting)
        if key and not constant and not connection.closed:
            self._answers[eio_sid] = answer
        return await self._write(request, eio_sid, connection, answer, payload)

    async def _write(
        self, request: web.Request, eio_sid: str, connection: Connection, answer: "_Answer", payload: str
    ) -> web.StreamResponse:
        """Write the answer to a poll. Until the client has read all but what its kernel keeps, it counts as unread."""
        response, transport = _answer(payload), request.transport
        if transport is None:
            return response
        queue: SendQueue = connection.queue
        transport.set_write_buffer_limits(high=0)  # so that it is known when all has left
        queue.buffer_filled(transport, len(payload))
        try:
            await response.prepare(request)
            async with asyncio.timeout(self._unread_seconds):
                await response.write_eof()
        except TimeoutError:
            transport.abort()
            self._server.abort(eio_sid, "unread_seconds")
        except ConnectionError:
            pass  # aiohttp ends the request
        else:
            for _ in range(answer.pings):
                queue.ping_sent()
            answer.pings = 0
        finally:
            queue.buffer_drained(transport)
        return response

    async def _post(
        self, request: web.Request, eio_sid: str, connection: Connection, key: str
    ) -> web.Response:
        """Handle one body at a time: two would evade the delays of refusals, and overtake each other.

        A body that an HTTP client repeats by itself, with the same ``key``, is handled once.
        """
        if (posting := self._posting.get(eio_sid)) is not None:
            # A client whose poll failed posts its close packet meanwhile; its earlier body is handled first.
            again = key and self._bodies.get(eio_sid, ("",))[0] == key and await self._body(request)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BODY_SECONDS):
                    await posting.wait()
            if again and self._bodies.get(eio_sid) == (key, hash(tuple(again))):
                return web.Response(text="OK")
            await self._server.close(eio_sid)
            raise web.HTTPBadRequest(text="One request at a time")
        posting = self._posting[eio_sid] = asyncio.Event()
        try:
            frames = await self._body(request)
            if key and frames != [packets.PONG]:
                body = key, hash(tuple(frames))
                if self._bodies.get(eio_sid) == body:
                    return web.Response(text="OK")
                if not connection.closed:
                    self._bodies[eio_sid] = body
            if not await self._take(eio_sid, connection, frames):
                raise _refused(UNKNOWN_SESSION)
        finally:
            del self._posting[eio_sid]
            posting.set()
        return web.Response(text="OK")

    async def _take(self, eio_sid: str, connection: Connection, frames: list[str]) -> bool:
        """Handle frames in order. Return True if the connection was open for all of them.

        The connection may close during any of them; later frames are not handled.
        """
        pongs = 0
        for frame in frames:
            if connection.closed:
                return False
            try:
                packets.check_frame(frame, polling=True)
                if frame == packets.CLOSE:
                    reason = self._eio.reason.TRANSPORT_CLOSE
                    await connection.close(wait=False, abort=True, reason=reason)
                    return True
                if frame == packets.PONG:
                    pongs += 1
                    if pongs > packets.PONGS_PER_POST:
                        raise Malformed("Too many pongs")
                    if connection.queue.pong_received():
                        connection.schedule_ping()
                        self._server.pong_received(eio_sid)
                else:
                    await self._server.message(eio_sid, frame[1:])
            except Malformed as error:
                await self._server.malformed(eio_sid, str(error))
        return True

    async def _body(self, request: web.Request) -> list[str]:
        """Return the frames of a polling request. Raises HTTP errors for one that is too large, late or malformed."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise web.HTTPUnsupportedMediaType(text="Not compressed, please")
        limit = self._eio.max_http_buffer_size
        if (request.content_length or 0) > limit:
            self._server.frame_too_large()
            raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0, text="Too large")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw = await request.content.read(limit + 1)
                while len(raw) <= limit and (more := await request.content.read(limit + 1 - len(raw))):
                    raw += more
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="The body did not arrive") from None
        if len(raw) > limit:
            self._server.frame_too_large()
            raise web.HTTPRequestEntityTooLarge(limit, len(raw), text="Too large")
        try:
            frames = raw.decode().split("\x1e") if raw else []
        except UnicodeDecodeError:
            raise web.HTTPBadRequest(text="Not UTF-8") from None
        if len(frames) > packets.PACKETS_PER_POST:
            raise web.HTTPBadRequest(text="Too many packets")
        return frames


class _Answer:
    """The answer to a poll, ``None`` if it is too large to keep. ``repeated``: True if it was sent twice.

    ``pings``: how many are in it, until it has left for the client.
    """

    __slots__ = ("key", "payload", "pings", "repeated")

    def __init__(self, key: str, payload: str | None) -> None:
        self.key = key
        self.payload = payload
        self.repeated = False
        self.pings = 0


def _answer(payload: str) -> web.Response:
    return web.Response(text=payload, content_type="text/plain", charset="UTF-8")


def _refused(why: tuple[int, str]) -> web.HTTPBadRequest:
    code, message = why
    text = json.dumps({"code": code, "message": message})
    return web.HTTPBadRequest(text=text, content_type="application/json")


def _is_embedded(request: web.Request) -> bool:
    """Return True if a browser sends a request for a page of another site that cannot read the answer.

    An image, a script, a form or a frame. Client libraries use XHR, ``fetch`` or a websocket.
    """
    headers = request.headers
    return headers.get("Sec-Fetch-Site") == "cross-site" and headers.get("Sec-Fetch-Mode", "cors") not in (
        "cors", "websocket",
    )  # fmt: skip


def _is_there(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()
