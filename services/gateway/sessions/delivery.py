"""What the services send to clients of this gateway, written to their sockets as it comes."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from nats.aio.msg import Msg

from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.registry import Socket
from services.gateway.protocol.ring_time import RINGING
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.sessions.resume import Arrival, Missed, ResumingSession, ResumingSessions
from shared import subjects
from shared.contracts import client
from shared.contracts.client import Event
from shared.contracts.relays import LINE
from shared.messaging.mailbox import call_of, seq_of
from shared.nats.connection import Bus
from shared.observability import logs, traces

log = logs.get(__name__)

LOOK_SECONDS = 0.02
EARLY_MAX = 1_024
"""Messages kept for sessions that are just joining."""

_TURNS = frozenset((Event.INITIATED, Event.INCOMING, Event.ACCEPTED, Event.REJECTED, Event.ENDED))
"""The turns that a call takes, each at most once; after one, a remembered "call with this peer" may be wrong."""


class Delivery:
    """Takes deliveries and orders for the sessions of this gateway."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        clients: ConnectedClients,
        resuming: ResumingSessions,
        receive_order: ReceiveOrder,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._registry = clients.registry
        self._server = clients.server
        self._sender = clients.server.sender
        self._resuming = resuming
        self._receive_order = receive_order

        self._tasks: set[asyncio.Task[None]] = set()
        self._joining = 0
        self._early: dict[str, list[Arrival]] = {}
        self._early_count = 0

    @contextmanager
    def joining(self) -> Iterator[None]:
        """While a socket joins, what comes for sessions that nobody speaks for yet is kept: it may be for this one."""
        self._joining += 1
        try:
            yield
        finally:
            self._joining -= 1
            if not self._joining:
                self._early.clear()
                self._early_count = 0

    def catch_up(self, socket: Socket) -> None:
        """Write what came for a socket's session before it was known to be here."""
        for arrival in self._early.pop(socket.session or "", ()):
            self._write(socket, *arrival)

    async def start(self) -> None:
        """Begin to take them."""
        await self._bus.subscribe_direct(subjects.deliver_all(self._instance), self._on_deliver)
        await self._bus.subscribe(subjects.control_all(self._instance), self._on_control)

    # --- deliveries -----------------------------------------------------------------------------------------------

    def _on_deliver(self, subject: str, reply: str, payload: bytes, head: bytes = b"") -> None:
        session, event = subjects.parse_deliver(subject)
        if head and traces.active is not None:
            with traces.active.delivery(event, head):
                self._on_deliver(subject, reply, payload)
            return
        recovery = self._resuming.get(session)
        if recovery is None and (socket := self._registry.by_session(session)) is not None:
            for line in payload.split(LINE):
                self._write(socket, event, line, reply)
        elif recovery is None or recovery.direct:
            for line in payload.split(LINE):
                self._take(session, Arrival(event, line, reply), recovery)

    def on_elsewhere(self, subject: str, reply: str, payload: bytes, _head: bytes = b"") -> None:
        """Something for a session that has just come here, wherever it was sent to."""
        session, event = subjects.parse_deliver(subject)
        if event != subjects.SETTLED:
            for line in payload.split(LINE):
                self._take(session, Arrival(event, line, reply), self._resuming.get(session))

    def _take(self, session: str, arrival: Arrival, recovery: ResumingSession | None) -> None:
        if recovery is not None:
            if recovery.held is not None:
                recovery.hold(arrival)
                return
            if not recovery.first(arrival.payload):
                return
        socket = self._registry.by_session(session)
        if socket is not None:
            self._write(socket, *arrival)
        elif self._joining and self._early_count < EARLY_MAX:
            self._early.setdefault(session, []).append(arrival)
            self._early_count += 1
        else:
            log.debug("nobody here for it", session=session, delivered=arrival.event)

    def _write(self, socket: Socket, event: str, payload: bytes, reply: str) -> None:
        left_out = socket.untold and event not in _TURNS
        written = b"" if left_out else self._receive_order.take(socket, event, payload, reply)
        if written is None:
            return
        if written:
            if event in _TURNS:
                if not socket.overtaken or seq_of(payload) > socket.overtaken:
                    self._tell(socket, event, written)
            else:
                self._sender.send_event(socket.eio_sid, event, written)
        if reply and subjects.receipt_wanted(reply) and self._bus.connected:
            self._bus.publish(reply)

    def _tell(self, socket: Socket, event: str, payload: bytes) -> None:
        if event in _TURNS:
            # A request that was tried again may be told again; the client hears it once.
            if not socket.hears_first(event, call_of(payload)):
                return
            socket.calls.clear()
            socket.untold = False
            if event in RINGING:
                self._sender.send_ringing(socket.eio_sid, event, payload)
                return
        self._sender.send_event(socket.eio_sid, event, payload)

    async def replay(self, socket: Socket, recovery: ResumingSession, missed: Missed) -> None:
        """Write what a session missed, then what came meanwhile, and from then on everything as it comes."""
        socket.caught_up = missed.complete
        socket.overtaken = missed.overtaken
        socket.untold = missed.untold
        for letter in missed.left_out:
            recovery.first(letter.payload)
        for letter in missed.before:
            recovery.first(letter.payload)
            if missed.heard is None or letter.event not in client.RELAYED:
                self._receive_order.skip(socket, letter, missed.since)
            if letter.event in _TURNS:
                socket.hears_first(letter.event, call_of(letter.payload))
        for letter in missed.missed:
            recovery.first(letter.payload)
            if payload := self._receive_order.take(socket, letter.event, letter.payload):
                await self._sender.wait_until_read(socket.eio_sid)
                self._tell(socket, letter.event, payload)
        held = self._early.pop(socket.session or "", [])
        while held or recovery.held:
            for arrival in held:
                if recovery.first(arrival.payload):
                    self._write(socket, *arrival)
            held, recovery.held = recovery.held or [], []
        self._resuming.finish(recovery)
        if recovery.overflown:
            log.warning("too much came while a session was recovered: closing it", session=recovery.session)
            self._server.closer.close_soon(socket.eio_sid)

    # --- orders -----------------------------------------------------------------------------------------------------

    async def _on_control(self, msg: Msg) -> None:
        """``alive``: say so. ``replaced``: another socket speaks for the session now; the one named is to go."""
        session, what = subjects.parse_control(msg.subject)
        if what == subjects.ALIVE:
            await msg.respond(b"")
            return
        if what in (subjects.LIVES, subjects.HEARD):
            self._spawn(self._answer(msg, session, what))
            return
        socket = self._registry.by_sid(msg.data.decode())
        if socket is not None and socket.session == session:
            await self.replaced(socket)
        elif socket is not None and socket.claims is not None:
            socket.replaced = session

    def _spawn(self, answering: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answering, name="connection asked")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, msg: Msg, session: str, what: str) -> None:
        """Tell presence about a socket: that it answers, or has answered, a ping; if not, since when it is silent."""
        sid, _, ms = msg.data.decode().partition(" ")
        socket, seconds = self._registry.by_sid(sid), int(ms) / 1000
        if socket is None or socket.gone:
            await msg.respond(subjects.GONE)
            return
        if what == subjects.LIVES:
            good = await self._sender.answers_ping(socket.eio_sid, seconds)
        else:
            good = await self._has_heard(socket, session, seconds)
        since = self._sender.last_pong_at(socket.eio_sid)
        if self._bus.connected:
            await msg.respond(subjects.YES if good else str(since or "").encode())

    async def _has_heard(self, socket: Socket, session: str, seconds: float) -> bool:
        """Return True once the client of ``socket`` has answered the ping behind the ``user:joined`` of ``session``.

        It has that many seconds from the ping on.
        """
        now = asyncio.get_running_loop().time
        until = (self._sender.confirmation_requested_at(socket.eio_sid) or now()) + seconds
        while not socket.gone:
            if socket.session == session and not self._sender.unconfirmed(socket.eio_sid):
                return True
            if now() >= until:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return socket.session == session and not self._sender.unconfirmed(socket.eio_sid)

    async def replaced(self, socket: Socket, session: str | None = None) -> None:
        """Another socket speaks for the session of this one now: it is told, and goes.

        ``session``: which one, of a socket that did not speak for it yet.
        """
        session = session or socket.session or ""
        log.info("replaced", user=socket.user, session=session)
        told = client.SessionOver(session_id=session).dump()
        self._registry.release(socket)
        self._sender.send_event(socket.eio_sid, Event.REPLACED, told)
        await self._server.disconnect(socket.sid)
        self._server.closer.close_soon(socket.eio_sid)
