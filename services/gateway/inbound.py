"""What clients send: checked, and forwarded to the service whose business it is."""

import asyncio
import time
from contextlib import suppress
from typing import TypeVar, cast

from services.gateway.admission import Admission
from services.gateway.auth import Auth, TokenRefused
from services.gateway.errands import Errands
from services.gateway.ice import IceServers
from services.gateway.limits import JoinTimeout, Strikes
from services.gateway.packets import TOO_DEEP, EventPacket
from services.gateway.rates import Rates, kind_of
from services.gateway.relay import Relays
from services.gateway.replies import Asked, Replies, call_id_of, dumps
from services.gateway.sessions import Registry
from services.gateway.short import Envelopes
from services.gateway.transport import Transport
from services.gateway.validation import TooLarge, known, validate
from shared import logs, traces
from shared.contracts import calls, client, presence
from shared.contracts.client import Event
from shared.contracts.wire import Wire
from shared.errors import (
    BadRequest,
    CallNotFound,
    NotAuthenticated,
    NotSent,
    RateLimited,
    ReceiverNotFound,
    SignallingError,
    Unauthorized,
    Unavailable,
)
from shared.hits import Hits
from shared.ids import could_be_minted, new_id
from shared.metrics import Histogram
from shared.rpc import Client

log = logs.get(__name__)

R = TypeVar("R", bound=Wire)


class Inbound:
    """The receiver of the transport."""

    def __init__(
        self,
        registry: Registry,
        transport: Transport,
        replies: Replies,
        services: Client,
        relays: Relays,
        admission: Admission,
        auth: Auth,
        errands: Errands,
        strikes: Strikes,
        refusals: Strikes,
        rates: Rates,
        hits: Hits,
        join_timeout: JoinTimeout,
        ice_servers: IceServers,
        sizes: client.Sizes,
    ) -> None:
        self._registry = registry
        self._transport = transport
        self._replies = replies
        self._services = services
        self._relays = relays
        self._admission = admission
        self._auth = auth
        self._errands = errands
        self._strikes = strikes
        self._refusals = refusals
        self._rates = rates
        self._hits = hits
        self._join_timeout = join_timeout
        self._ice_servers = ice_servers
        self._sizes = sizes
        self.stopping = False
        """Whether all sockets are about to break: what is still joined is lost with the lease, not one by one."""
        self._handlers = {
            Event.JOIN: self._join,
            Event.INITIATE: self._initiate,
            Event.ACCEPT: self._accept,
            Event.REJECT: self._reject,
            Event.END: self._end,
            Event.STATUS: self._status,
            Event.ICE_SERVERS: self._ice,
            Event.REFRESH: self._refresh,
            Event.OFFER: self._relay,
            Event.ANSWER: self._relay,
            Event.CANDIDATE: self._relay,
        }
        self.took = {event: Histogram() for event in self._handlers if event not in client.RELAYED}
        """How long events were in hand, in seconds. Relays are counted, not timed."""
        self.set_up = Histogram()
        """From ``call:initiate`` until the callee's devices were told, in seconds."""

    # --- connections ----------------------------------------------------------------------------------------------

    def opened(self, eio_sid: str) -> None:
        self._join_timeout.connected(eio_sid)

    def connected(self, sid: str, eio_sid: str, auth: object) -> None:
        self._registry.add(sid, eio_sid).rates = self._rates.socket()
        self._auth.connected(sid, auth)

    def closed(self, eio_sid: str) -> None:
        self._join_timeout.joined_or_gone(eio_sid)
        self._strikes.forget(eio_sid)
        self._refusals.forget(eio_sid)

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """A client that leaves takes its session with it; one whose transport broke may come back to it."""
        self._auth.gone(sid)
        socket = self._registry.remove(sid)
        if socket is not None:
            self._rates.left(socket.rates)
        if socket is None:
            return
        if socket.user is None or socket.session is None:
            if socket.claims is not None and not self.stopping:
                self._admission.lost(socket)
            return
        log.info("disconnected", user=socket.user, session=socket.session, on_purpose=on_purpose)
        if not on_purpose:
            if not self.stopping:
                self._admission.lost(socket)
            return
        self._admission.leave(socket, reason="hangup")

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
            self._replies.refuse(Asked(socket, "", ack_id), BadRequest(what))
        if what == TOO_DEEP:
            self._hits.hit("depth")
        await self._strike(eio_sid, self._strikes, "strikes")

    async def _strike(self, eio_sid: str, strikes: Strikes, limit: str) -> None:
        """Count what should not be. The next message of the connection waits, longer each time, until it is closed."""
        if strikes.strike(eio_sid):
            self._hits.hit(limit)
            log.info("closing a connection", connection=eio_sid, limit=limit)
            self._transport.close_soon(eio_sid)
        elif pause := strikes.pause(eio_sid):
            await asyncio.sleep(pause)

    async def event(self, sid: str, packet: EventPacket) -> None:
        """Handle one event. Whatever goes wrong is told to the client; nothing is raised."""
        socket = self._registry.by_sid(sid)
        if socket is None:
            return
        call_id = call_id_of(packet.args[0]) if packet.args else None
        asked = Asked(socket, packet.name, packet.ack_id, call_id)
        kind, rates = kind_of(packet.name), socket.rates
        if rates is not None and not rates.take(kind):
            self._hits.hit(f"rate_{kind.name.lower()}")
            self._replies.refuse(asked, RateLimited(retry_after_ms=rates.retry_after_ms(kind)))
            await self._strike(socket.eio_sid, self._refusals, "refusals")
            return
        try:
            await self._handle(asked, packet)
        except SignallingError as error:
            log.debug("refused", refused=packet.name[:64], code=error.code, user=socket.user, call=call_id)
            self._replies.refuse(asked, error)
            if isinstance(error, TooLarge):
                self._hits.hit("sizes")
            if isinstance(error, BadRequest | TokenRefused):
                await self._strike(socket.eio_sid, self._strikes, "strikes")
        except Exception:
            # A defect of ours: told to the operator in full, to the client as "try again".
            log.exception("event failed", failed=packet.name[:64], user=socket.user, call=call_id)
            self._replies.refuse(asked, Unavailable())

    async def _handle(self, asked: Asked, packet: EventPacket) -> None:
        event, socket = known(packet.name), asked.socket
        if event is not Event.JOIN and socket.session is None:
            raise NotAuthenticated
        message = validate(event, packet.args, self._sizes)
        sender = getattr(message, "from_", None)
        if sender is not None and sender != socket.user:
            raise Unauthorized
        call_id = getattr(message, "call_id", None)
        if call_id is not None and not could_be_minted(call_id):
            raise ReceiverNotFound if event in client.RELAYED else CallNotFound
        handler, took = self._handlers[event], self.took.get(event)
        if took is None:
            await handler(asked, message)
            return
        with took.timed():
            if traces.active is None:
                await handler(asked, message)
                return
            with traces.active.event(event, call_id):
                await handler(asked, message)

    # --- one method an event -----------------------------------------------------------------------------------------

    async def _join(self, asked: Asked, message: Wire) -> None:
        await self._admission.join(asked, cast(client.Join, message))

    async def _refresh(self, asked: Asked, message: Wire) -> None:
        await self._admission.refresh(asked, cast(client.Refresh, message))

    async def _initiate(self, asked: Asked, message: Wire) -> None:
        initiate = cast(client.Initiate, message)
        if initiate.to == asked.socket.user:
            raise BadRequest("to: must be somebody else")
        request = calls.InitiateRequest(
            **self._admission.by(asked.socket),
            call=new_id() if traces.active is None else traces.active.call_id(),
            to=initiate.to,
            call_type=initiate.call_type,
            metadata=initiate.metadata,
        )
        begun = time.perf_counter()
        reply = await self._ask("initiate", request, calls.InitiateReply)
        self.set_up.observe(time.perf_counter() - begun)
        self._replies.ok(asked, callId=reply.call, to=reply.to, expiresAt=reply.expires_at)

    async def _accept(self, asked: Asked, message: Wire) -> None:
        call = cast(client.Accept, message).call_id
        request = calls.AcceptRequest(**self._admission.by(asked.socket), call=call)
        await self._ask("accept", request, calls.CallReply)
        self._replies.ok(asked, callId=call)

    async def _reject(self, asked: Asked, message: Wire) -> None:
        reject = cast(client.Reject, message)
        request = calls.RejectRequest(
            **self._admission.by(asked.socket), call=reject.call_id, reason=reject.reason
        )
        await self._ask("reject", request, calls.CallReply)
        self._replies.ok(asked, callId=reject.call_id)

    async def _end(self, asked: Asked, message: Wire) -> None:
        end = cast(client.End, message)
        request = calls.EndRequest(**self._admission.by(asked.socket), call=end.call_id, reason=end.reason)
        await self._ask("end", request, calls.CallReply)
        self._replies.ok(asked, callId=end.call_id)

    async def _ask(self, verb: str, request: calls.ByClient, reply: type[R]) -> R:
        """Have call control do something. What it may have done without anybody hearing of it is told later."""
        try:
            return await self._services.ask("calls", verb, request, reply)
        except NotSent:
            raise
        except Unavailable:
            settle = request.model_copy(update={"settle": True})

            async def settled() -> None:
                await asyncio.sleep(self._services.timeout)  # from then on nobody does it any more
                with suppress(CallNotFound):
                    await self._services.ask("calls", verb, settle, reply)

            self._errands.run("settle", settled)
            raise

    async def _status(self, asked: Asked, message: Wire) -> None:
        query = cast(client.StatusQuery, message)
        assert asked.socket.user is not None
        request = presence.StatusRequest(request_id=new_id(), user=query.user_id, asker=asked.socket.user)
        status = await self._services.ask("presence", "status", request, client.Status)
        fields = status.model_dump(by_alias=True)
        self._transport.send_event(asked.socket.eio_sid, Event.STATUS, dumps(fields))
        self._replies.ok(asked, **fields)

    async def _ice(self, asked: Asked, _: Wire) -> None:
        assert asked.socket.user is not None
        ice = self._ice_servers.issue(asked.socket.user)
        servers = client.IceServers(ice_servers=ice.servers, expires_at=ice.expires_at)
        fields = servers.model_dump(by_alias=True, exclude_none=True)
        self._transport.send_event(asked.socket.eio_sid, Event.ICE_SERVERS, dumps(fields))
        self._replies.ok(asked, **fields)

    async def _relay(self, asked: Asked, message: Wire) -> None:
        relayed = cast(client.Relayed, message)
        await self._relays.send(asked, relayed)
        if asked.socket.envelopes is not None:
            asked.socket.envelopes.learn(Event(asked.event), relayed)

    def at_once(self, eio_sid: str, frame: bytes) -> bool:
        """Take a frame that is a relay as most are; whether it was one. Any other has not been looked at."""
        socket = self._registry.by_connection(eio_sid)
        if socket is None or socket.session is None:
            return False
        if socket.envelopes is None:
            socket.envelopes = Envelopes(self._sizes)
        envelope = socket.envelopes.find(frame)
        if envelope is None:
            return False
        call = envelope.call or socket.calls.get(envelope.to)
        payload = envelope.payload(frame, call) if call is not None else None
        if call is None or payload is None:
            return False
        if socket.rates is not None and not socket.rates.take(envelope.kind):
            return False  # the long way says so
        try:
            return self._relays.pass_on(socket, envelope.event, envelope.to, call, payload)
        except (Unavailable, RateLimited) as error:
            self._replies.refuse(Asked(socket, envelope.event, None, envelope.call), error)
            return True
