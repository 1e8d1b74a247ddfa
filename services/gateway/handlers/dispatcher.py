"""Dispatch client events: check each, call its handler, and send its client the error if there is one."""

import time
from collections.abc import Mapping
from typing import Any

from services.gateway.auth.authenticator import Authenticator, TokenRefused
from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.responder import ClientRequest, call_id_of
from services.gateway.handlers.event_table import EventHandler
from services.gateway.limits.client_limits import ClientLimits
from services.gateway.protocol.event_class import class_of
from services.gateway.protocol.packets import TOO_DEEP, EventPacket
from services.gateway.protocol.validation import TooLarge, join_in, known, validate
from services.gateway.relay.service import RelayService
from services.gateway.sessions.leave import LeaveService
from shared.contracts import client
from shared.contracts.client import Event
from shared.contracts.wire import Wire
from shared.errors import (
    BadRequest,
    CallNotFound,
    NotAuthenticated,
    RateLimited,
    ReceiverNotFound,
    SignallingError,
    TokenExpired,
    Unauthorized,
    Unavailable,
)
from shared.ids import could_be_minted
from shared.observability import logs, traces
from shared.observability.metrics import Histogram

log = logs.get(__name__)

_WITH_CALL = frozenset(event for event, model in client.INBOUND.items() if "call_id" in model.model_fields)


class Dispatcher:
    """Receives what the Socket.IO server reads. ``sizes``: limits of payloads."""

    def __init__(
        self,
        clients: ConnectedClients,
        handlers: Mapping[Event, EventHandler],
        leave_service: LeaveService,
        relays: RelayService,
        auth: Authenticator,
        limits: ClientLimits,
        sizes: client.Sizes,
    ) -> None:
        self._registry = clients.registry
        self._server = clients.server
        self._responder = clients.responder
        self._handlers = handlers
        self._leave_service = leave_service
        self._relays = relays
        self._auth = auth
        self._rates = limits.rates
        self._connections = limits.connections
        self._join_timeout = limits.join_timeout
        self._penalties = limits.penalties
        self._hits = limits.hits
        self._sizes = sizes
        self._joining: dict[str, dict[str, Any]] = {}
        """Socket → the join in its handshake, until that join begins."""
        self._stopping = False
        self.took = {event: Histogram() for event in handlers if event not in client.RELAYED}
        """Event → time until it was answered, in seconds. Relays are counted, not timed."""

    def stop(self) -> None:
        """Ignore sockets that are lost from now on, because their sessions are lost with the lease of this gateway."""
        self._stopping = True

    # --- connections ----------------------------------------------------------------------------------------------

    def opened(self, eio_sid: str) -> None:
        """Start the join timeout of a connection that opens."""
        self._join_timeout.connected(eio_sid)

    def connected(self, sid: str, eio_sid: str, auth: object) -> None:
        """Register a socket. ``auth``: JSON of its handshake, which may have a token and a join."""
        self._registry.add(sid, eio_sid).rates = self._rates.socket()
        self._auth.connected(sid, auth)
        if (join := join_in(auth)) is not None:
            self._joining[sid] = join

    async def after_connect(self, sid: str) -> None:
        """Handle the join in a handshake, if there is one, before any event of the socket."""
        if (join := self._joining.pop(sid, None)) is not None:
            await self.event(sid, EventPacket(Event.JOIN, [join], None))
        elif self._connections.crowded and (user := await self._auth.handshake_user(sid)) is not None:
            socket = self._registry.by_sid(sid)
            if socket is not None:
                self._connections.vouched(socket.eio_sid, user)

    def closed(self, eio_sid: str) -> None:
        """Discard what is kept for a connection that is closed."""
        self._join_timeout.disarm(eio_sid)
        self._penalties.forget(eio_sid)

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """End the session of a client that disconnects ``on_purpose``; else begin the session's grace period."""
        self._auth.gone(sid)
        self._joining.pop(sid, None)
        socket = self._registry.remove(sid)
        if socket is None:
            return
        self._rates.left(socket.rates)
        if socket.user is None or socket.session is None:
            if socket.joining_user is not None and not self._stopping:
                self._leave_service.lost(socket)
            return
        log.info("disconnected", user=socket.user, session=socket.session, on_purpose=on_purpose)
        if on_purpose:
            self._leave_service.leave(socket, reason="hangup")
        elif not self._stopping:
            self._leave_service.lost(socket)

    async def owes(self, sid: str) -> bool:
        """Return True if the acknowledgement of a relay is still to be sent to the client."""
        socket = self._registry.by_sid(sid)
        if socket is not None and socket.acks_pending:
            self._relays.settle(socket)
        return socket is not None and socket.acks_pending > 0

    # --- messages -------------------------------------------------------------------------------------------------

    async def malformed(self, eio_sid: str, what: str, ack_id: int | None = None) -> None:
        """Count a malformed message, and send its client an error if the client is connected to the namespace."""
        sid = self._server.manager.sid_from_eio_sid(eio_sid, "/")
        socket = self._registry.by_sid(sid) if sid is not None else None
        if socket is not None:
            self._responder.refuse(ClientRequest(socket, "", ack_id), BadRequest(what))
        if what == TOO_DEEP:
            self._hits.hit("depth")
        await self._penalties.malformed(eio_sid)

    async def foreign(self, eio_sid: str) -> None:
        """Count a packet of another namespace: as refused, or as malformed if the default one is not connected."""
        if self._server.manager.sid_from_eio_sid(eio_sid, "/") is None:
            await self._penalties.malformed(eio_sid)
        else:
            await self._penalties.refused(eio_sid)

    async def event(self, sid: str, packet: EventPacket) -> None:
        """Handle one event. Every error is sent to the client; none is raised."""
        socket = self._registry.by_sid(sid)
        if socket is None:
            return
        call_id = call_id_of(packet.args[0]) if packet.args else None
        asked = ClientRequest(socket, packet.name, packet.ack_id, call_id)
        kind, rates = class_of(packet.name), socket.rates
        if rates is not None and not rates.take(kind):
            self._hits.hit(f"rate_{kind.name.lower()}")
            self._responder.refuse(asked, RateLimited(retry_after_ms=rates.retry_after_ms(kind)))
            await self._penalties.refused(socket.eio_sid)
            return
        try:
            event, message = self._checked(asked, packet)
            took, begun = self.took.get(event), time.perf_counter()
            try:
                if took is None or traces.active is None:
                    await self._handlers[event](asked, message)
                else:
                    with traces.active.event(event, call_id):
                        await self._handlers[event](asked, message)
            finally:
                if took is not None:
                    took.observe(time.perf_counter() - begun)
        except SignallingError as error:
            log.debug("refused", refused=packet.name[:64], code=error.code, user=socket.user, call=call_id)
            self._responder.refuse(asked, error)
            if isinstance(error, TooLarge):
                self._hits.hit("sizes")
            if isinstance(error, RateLimited) and packet.name == Event.JOIN:
                await self._penalties.refused(socket.eio_sid)
            if isinstance(error, BadRequest | TokenRefused | TokenExpired):
                await self._penalties.malformed(socket.eio_sid)
        except Exception:
            # A defect of the gateway: the log has it in full; the error asks the client to retry.
            log.exception("event failed", failed=packet.name[:64], user=socket.user, call=call_id)
            self._responder.refuse(asked, Unavailable())

    def _checked(self, asked: ClientRequest, packet: EventPacket) -> tuple[Event, Wire]:
        """Return the event and its valid payload. Raises the error that its client is to be sent."""
        event, socket = known(packet.name), asked.socket
        if event is not Event.JOIN and socket.session is None:
            raise NotAuthenticated
        message = validate(event, packet.args, self._sizes)
        if isinstance(message, client.Relayed) and message.from_ != socket.user:
            raise Unauthorized
        if event in _WITH_CALL:
            call_id: str | None = message.call_id  # type: ignore[attr-defined]
            if call_id is not None and not could_be_minted(call_id):
                raise ReceiverNotFound if event in client.RELAYED else CallNotFound
        return event, message
