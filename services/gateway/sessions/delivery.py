"""Deliver messages of services to the clients of this gateway."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from nats.aio.msg import Msg

from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.registry import Socket
from services.gateway.protocol.ring_time import RINGING
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.sessions.resume import DeliveredMessage, Missed, ResumingSession, ResumingSessions
from shared import subjects
from shared.contracts import client
from shared.contracts.client import Event
from shared.contracts.relays import LINE
from shared.messaging.mailbox import call_of, seq_of
from shared.nats.connection import Bus
from shared.observability import logs, traces

log = logs.get(__name__)

POLL_SECONDS = 0.02
EARLY_MAX = 1_024
"""Messages that are kept for sessions that are joining."""

_CALL_EVENTS = frozenset((Event.INITIATED, Event.INCOMING, Event.ACCEPTED, Event.REJECTED, Event.ENDED))
"""Events of a call, each sent once at most. After one, the call that is kept for a peer may be the wrong one."""


class Delivery:
    """Writes messages to the sockets of their sessions, and handles control requests of presence."""

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
        self._early: dict[str, list[DeliveredMessage]] = {}
        self._early_count = 0

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Keep messages for sessions without a socket while a client joins, because they may be for its session."""
        self._joining += 1
        try:
            yield
        finally:
            self._joining -= 1
            if not self._joining:
                self._early.clear()
                self._early_count = 0

    def catch_up(self, socket: Socket) -> None:
        """Write the messages that came for a socket's session before the socket was bound to it."""
        for delivered in self._early.pop(socket.session or "", ()):
            self._write(socket, *delivered)

    async def start(self) -> None:
        """Subscribe to messages and control requests for this gateway."""
        await self._bus.subscribe_direct(subjects.deliver_all(self._instance), self._on_deliver)
        await self._bus.subscribe(subjects.control_all(self._instance), self._on_control)

    # --- deliveries -----------------------------------------------------------------------------------------------

    def _on_deliver(self, subject: str, reply: str, payload: bytes, head: bytes = b"") -> None:
        session, event = subjects.parse_deliver(subject)
        if head and traces.active is not None:
            with traces.active.delivery(event, head):
                self._on_deliver(subject, reply, payload)
            return
        resume = self._resuming.get(session)
        if resume is None and (socket := self._registry.by_session(session)) is not None:
            for part in payload.split(LINE):
                self._write(socket, event, part, reply)
        elif resume is None or resume.direct:
            for part in payload.split(LINE):
                self._take(session, DeliveredMessage(event, part, reply), resume)

    def on_old_address(self, subject: str, reply: str, payload: bytes, _head: bytes = b"") -> None:
        """Handle a message for a resuming session that was sent to the address of its old socket."""
        session, event = subjects.parse_deliver(subject)
        if event != subjects.SETTLED:
            for part in payload.split(LINE):
                self._take(session, DeliveredMessage(event, part, reply), self._resuming.get(session))

    def _take(self, session: str, delivered: DeliveredMessage, resume: ResumingSession | None) -> None:
        if resume is not None:
            if resume.buffer is not None:
                resume.keep(delivered)
                return
            if not resume.first_time(delivered.payload):
                return
        socket = self._registry.by_session(session)
        if socket is not None:
            self._write(socket, *delivered)
        elif self._joining and self._early_count < EARLY_MAX:
            self._early.setdefault(session, []).append(delivered)
            self._early_count += 1
        else:
            log.debug("message for a session that is not here", session=session, delivered=delivered.event)

    def _write(self, socket: Socket, event: str, payload: bytes, reply: str) -> None:
        skipped = socket.call_pending and event not in _CALL_EVENTS
        fresh = b"" if skipped else self._receive_order.take(socket, event, payload, reply)
        if fresh is None:
            return
        if fresh:
            if event in _CALL_EVENTS:
                if not socket.redelivered_upto or seq_of(payload) > socket.redelivered_upto:
                    self._send(socket, event, fresh)
            else:
                self._sender.send_event(socket.eio_sid, event, fresh)
        if reply and subjects.receipt_wanted(reply) and self._bus.connected:
            self._bus.publish(reply)

    def _send(self, socket: Socket, event: str, payload: bytes) -> None:
        if event in _CALL_EVENTS:
            # Callcore may send an event again after a retried request; the client is sent it once.
            if not socket.record_call_event(event, call_of(payload)):
                return
            socket.calls.clear()
            socket.call_pending = False
            if event in RINGING:
                self._sender.send_ringing(socket.eio_sid, event, payload)
                return
        self._sender.send_event(socket.eio_sid, event, payload)

    async def replay(self, socket: Socket, resume: ResumingSession, missed: Missed) -> None:
        """Write what a session missed, then the messages that came meanwhile. Later ones are written as they come."""
        socket.caught_up = missed.complete
        socket.redelivered_upto = missed.redelivered_upto
        socket.call_pending = missed.call_pending
        for message in missed.left_out:
            resume.first_time(message.payload)
        for message in missed.before:
            resume.first_time(message.payload)
            if missed.received is None or message.event not in client.RELAYED:
                self._receive_order.skip(socket, message, missed.since)
            if message.event in _CALL_EVENTS:
                socket.record_call_event(message.event, call_of(message.payload))
        for message in missed.missed:
            resume.first_time(message.payload)
            if payload := self._receive_order.take(socket, message.event, message.payload):
                await self._sender.wait_until_read(socket.eio_sid)
                self._send(socket, message.event, payload)
        kept = self._early.pop(socket.session or "", [])
        while kept or resume.buffer:
            for delivered in kept:
                if resume.first_time(delivered.payload):
                    self._write(socket, *delivered)
            kept, resume.buffer = resume.buffer or [], []
        self._resuming.finish(resume)
        if resume.overflowed:
            log.warning(
                "too many messages for a resuming session: closing its connection", session=resume.session
            )
            self._server.closer.close_soon(socket.eio_sid)

    # --- control -----------------------------------------------------------------------------------------------------

    async def _on_control(self, msg: Msg) -> None:
        """Handle a request of presence.

        ``alive``: reply. ``lives`` and ``heard``: see :meth:`_answer`. ``replaced``: close the socket that is named,
        because another one is bound to its session now.
        """
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
        elif socket is not None and socket.joining_user is not None:
            socket.replaced = session

    def _spawn(self, reply: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(reply, name="connection check")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, msg: Msg, session: str, what: str) -> None:
        """Reply to presence whether a socket answers a ping, or has confirmed ``user:joined``.

        If not, the reply is the time of its last pong (ms since the epoch), empty if there was none.
        """
        sid, _, ms = msg.data.decode().partition(" ")
        socket, seconds = self._registry.by_sid(sid), int(ms) / 1000
        if socket is None or socket.gone:
            await msg.respond(subjects.GONE)
            return
        if what == subjects.LIVES:
            confirmed = await self._sender.answers_ping(socket.eio_sid, seconds)
        else:
            confirmed = await self._has_confirmed(socket, session, seconds)
        since = self._sender.last_pong_at(socket.eio_sid)
        if self._bus.connected:
            await msg.respond(subjects.YES if confirmed else str(since or "").encode())

    async def _has_confirmed(self, socket: Socket, session: str, seconds: float) -> bool:
        """Return True once the client of ``socket`` has answered the ping after the ``user:joined`` of ``session``.

        Return False if it has not within ``seconds`` of that ping.
        """
        now = asyncio.get_running_loop().time
        until = (self._sender.confirmation_requested_at(socket.eio_sid) or now()) + seconds
        while not socket.gone:
            if socket.session == session and not self._sender.unconfirmed(socket.eio_sid):
                return True
            if now() >= until:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return socket.session == session and not self._sender.unconfirmed(socket.eio_sid)

    async def replaced(self, socket: Socket, session: str | None = None) -> None:
        """Notify a client that another socket has taken its session over, and close its connection.

        ``session``: the session, if the socket is not bound to it yet.
        """
        session = session or socket.session or ""
        log.info("replaced", user=socket.user, session=session)
        payload = client.SessionOver(session_id=session).dump()
        self._registry.release(socket)
        self._sender.send_event(socket.eio_sid, Event.REPLACED, payload)
        await self._server.disconnect(socket.sid)
        self._server.closer.close_soon(socket.eio_sid)
