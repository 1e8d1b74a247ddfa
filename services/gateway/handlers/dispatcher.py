"""What clients send, on its way to those whose business it is."""

import asyncio
import time
from typing import Any, cast

from services.gateway.auth.authenticator import Authenticator, TokenRefused
from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import ClientRequest, Responder, call_id_of
from services.gateway.handlers.call_events import CallEvents
from services.gateway.handlers.query_events import QueryEvents
from services.gateway.handlers.relay_fast_path import RelayFastPath
from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.limits.join_timeout import JoinTimeout
from services.gateway.limits.rate_limiter import RateLimiter
from services.gateway.limits.strike_counter import StrikeCounter
from services.gateway.protocol.event_class import class_of
from services.gateway.protocol.packets import TOO_DEEP, EventPacket
from services.gateway.protocol.validation import TooLarge, join_in, known, validate
from services.gateway.relay.service import RelayService
from services.gateway.sessions.join import JoinService
from services.gateway.transport.socketio_server import SocketIOServer
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
from shared.observability.limit_hits import LimitHits
from shared.observability.metrics import Histogram

log = logs.get(__name__)

_WITH_CALL = frozenset(event for event, model in client.INBOUND.items() if "call_id" in model.model_fields)


class Dispatcher:
    """The receiver of the transport."""

    def __init__(
        self,
        registry: Registry,
        transport: SocketIOServer,
        replies: Responder,
        relays: RelayService,
        fast_path: RelayFastPath,
        calls: CallEvents,
        questions: QueryEvents,
        join_service: JoinService,
        auth: Authenticator,
        strikes: StrikeCounter,
        refusals: StrikeCounter,
        rates: RateLimiter,
        hits: LimitHits,
        join_timeout: JoinTimeout,
        connections: ConnectionLimits,
        sizes: client.Sizes,
    ) -> None:
        self._registry = registry
        self._transport = transport
        self._replies = replies
        self._relays = relays
        self._fast_path = fast_path
        self._join_service = join_service
        self._auth = auth
        self._strikes = strikes
        self._refusals = refusals
        self._rates = rates
        self._hits = hits
        self._join_timeout = join_timeout
        self._connections = connections
        self._sizes = sizes
        self._joining: dict[str, dict[str, Any]] = {}
        """Socket → the join that it asked for in its handshake, until that is begun."""
        self.stopping = False
        """Whether all sockets are about to break: what is still joined is lost with the lease, not one by one."""
        self._handlers = {
            Event.JOIN: self._join,
            Event.INITIATE: calls.initiate,
            Event.ACCEPT: calls.accept,
            Event.REJECT: calls.reject,
            Event.END: calls.end,
            Event.STATUS: questions.status,
            Event.ICE_SERVERS: questions.ice_servers,
            Event.REFRESH: self._refresh,
            Event.OFFER: self._relay,
            Event.ANSWER: self._relay,
            Event.CANDIDATE: self._relay,
        }
        self.took = {event: Histogram() for event in self._handlers if event not in client.RELAYED}
        """How long events were in hand, in seconds. Relays are counted, not timed."""
        self.at_once = fast_path.take
        """A frame that may be a relay, before anybody has looked at it; whether it is done with."""

    # --- connections ----------------------------------------------------------------------------------------------

    def opened(self, eio_sid: str) -> None:
        self._join_timeout.connected(eio_sid)

    def connected(self, sid: str, eio_sid: str, auth: object) -> None:
        self._registry.add(sid, eio_sid).rates = self._rates.socket()
        self._auth.connected(sid, auth)
        if (join := join_in(auth)) is not None:
            self._joining[sid] = join

    async def after_connect(self, sid: str) -> None:
        """Join, if the client asked for it in the handshake: as by an event that comes before all others."""
        if (join := self._joining.pop(sid, None)) is not None:
            await self.event(sid, EventPacket(Event.JOIN, [join], None))
        elif self._connections.crowded and (user := await self._auth.shown_by(sid)) is not None:
            socket = self._registry.by_sid(sid)
            if socket is not None:
                self._connections.vouched(socket.eio_sid, user)

    def closed(self, eio_sid: str) -> None:
        self._join_timeout.joined_or_gone(eio_sid)
        self._strikes.forget(eio_sid)
        self._refusals.forget(eio_sid)

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """A client that leaves takes its session with it; one whose transport broke may come back to it."""
        self._auth.gone(sid)
        self._joining.pop(sid, None)
        socket = self._registry.remove(sid)
        if socket is not None:
            self._rates.left(socket.rates)
        if socket is None:
            return
        if socket.user is None or socket.session is None:
            if socket.claims is not None and not self.stopping:
                self._join_service.lost(socket)
            return
        log.info("disconnected", user=socket.user, session=socket.session, on_purpose=on_purpose)
        if not on_purpose:
            if not self.stopping:
                self._join_service.lost(socket)
            return
        self._join_service.leave(socket, reason="hangup")

    async def owes(self, sid: str) -> bool:
        """Whether the client waits for the acknowledgement of a relay."""
        socket = self._registry.by_sid(sid)
        if socket is not None and socket.acks_pending:
            self._relays.settle(socket)
        return socket is not None and socket.acks_pending > 0

    # --- messages -------------------------------------------------------------------------------------------------

    async def malformed(self, eio_sid: str, what: str, ack_id: int | None = None) -> None:
        """Say so, if there is anybody to hear it, and count it."""
        sid = self._transport.manager.sid_from_eio_sid(eio_sid, "/")
        socket = self._registry.by_sid(sid) if sid is not None else None
        if socket is not None:
            self._replies.refuse(ClientRequest(socket, "", ack_id), BadRequest(what))
        if what == TOO_DEEP:
            self._hits.hit("depth")
        await self._strike(eio_sid, self._strikes, "strikes")

    async def foreign(self, eio_sid: str) -> None:
        """Count packets of other namespaces: as refusals, or as garbage where the default one is not connected."""
        if self._transport.manager.sid_from_eio_sid(eio_sid, "/") is None:
            await self._strike(eio_sid, self._strikes, "strikes")
        else:
            await self._strike(eio_sid, self._refusals, "refusals")

    async def _strike(self, eio_sid: str, strikes: StrikeCounter, limit: str) -> None:
        """Count what should not be. The next message of the connection waits, longer each time, until it is closed."""
        if strikes.strike(eio_sid):
            self._hits.hit(limit)
            log.info("closing a connection", connection=eio_sid, limit=limit)
            self._transport.closer.close_soon(eio_sid)
        elif pause := strikes.pause(eio_sid):
            await asyncio.sleep(pause)

    async def event(self, sid: str, packet: EventPacket) -> None:
        """Handle one event. Whatever goes wrong is told to the client; nothing is raised."""
        socket = self._registry.by_sid(sid)
        if socket is None:
            return
        call_id = call_id_of(packet.args[0]) if packet.args else None
        asked = ClientRequest(socket, packet.name, packet.ack_id, call_id)
        kind, rates = class_of(packet.name), socket.rates
        if rates is not None and not rates.take(kind):
            self._hits.hit(f"rate_{kind.name.lower()}")
            self._replies.refuse(asked, RateLimited(retry_after_ms=rates.retry_after_ms(kind)))
            await self._strike(socket.eio_sid, self._refusals, "refusals")
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
            self._replies.refuse(asked, error)
            if isinstance(error, TooLarge):
                self._hits.hit("sizes")
            if isinstance(error, RateLimited) and packet.name == Event.JOIN:
                await self._strike(socket.eio_sid, self._refusals, "refusals")
            if isinstance(error, BadRequest | TokenRefused | TokenExpired):
                await self._strike(socket.eio_sid, self._strikes, "strikes")
        except Exception:
            # A defect of ours: told to the operator in full, to the client as "try again".
            log.exception("event failed", failed=packet.name[:64], user=socket.user, call=call_id)
            self._replies.refuse(asked, Unavailable())

    def _checked(self, asked: ClientRequest, packet: EventPacket) -> tuple[Event, Wire]:
        """What a client says, if it may say so. Raises the errors of the protocol."""
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

    # --- one method an event -----------------------------------------------------------------------------------------

    async def _join(self, asked: ClientRequest, message: Wire) -> None:
        await self._join_service.join(asked, cast(client.Join, message))

    async def _refresh(self, asked: ClientRequest, message: Wire) -> None:
        await self._join_service.refresh(asked, cast(client.Refresh, message))

    async def _relay(self, asked: ClientRequest, message: Wire) -> None:
        relayed = cast(client.Relayed, message)
        await self._relays.send(asked, relayed)
        self._fast_path.learn(asked, relayed)
