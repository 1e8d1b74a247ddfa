"""What clients send: checked, and forwarded to the service whose business it is."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from services.gateway.errands import Errands
from services.gateway.ice import IceServers
from services.gateway.limits import JoinTimeout, Strikes
from services.gateway.outbound import Outbound
from services.gateway.packets import EventPacket
from services.gateway.recovery import Recoveries, joined_seq
from services.gateway.relay import Relays
from services.gateway.replies import Asked, Replies, call_id_of, dumps
from services.gateway.sessions import Registry, Socket
from services.gateway.short import Envelopes
from services.gateway.transport import Transport
from services.gateway.validation import known, validate
from shared import logs
from shared.contracts import calls, client, presence
from shared.contracts.client import Event
from shared.contracts.rpc import Done
from shared.contracts.wire import Wire
from shared.errors import (
    BadRequest,
    CallNotFound,
    NotAuthenticated,
    NotSent,
    ReceiverNotFound,
    SignallingError,
    Unauthorized,
    Unavailable,
)
from shared.ids import could_be_minted, new_id
from shared.rpc import Client

log = logs.get(__name__)

R = TypeVar("R", bound=Wire)


class Inbound:
    """The receiver of the transport. ``instance`` is this gateway's name in every address."""

    def __init__(
        self,
        instance: str,
        registry: Registry,
        transport: Transport,
        replies: Replies,
        services: Client,
        relays: Relays,
        outbound: Outbound,
        recoveries: Recoveries,
        errands: Errands,
        strikes: Strikes,
        join_timeout: JoinTimeout,
        *,
        lease_held: Callable[[], bool],
        ice_servers: IceServers,
        resume_window: int,
    ) -> None:
        self._instance = instance
        self._registry = registry
        self._transport = transport
        self._replies = replies
        self._services = services
        self._relays = relays
        self._outbound = outbound
        self._recoveries = recoveries
        self._errands = errands
        self._strikes = strikes
        self._join_timeout = join_timeout
        self._lease_held = lease_held
        self._ice_servers = ice_servers
        self._resume_window = resume_window
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
            Event.OFFER: self._relay,
            Event.ANSWER: self._relay,
            Event.CANDIDATE: self._relay,
        }

    # --- connections ----------------------------------------------------------------------------------------------

    def opened(self, eio_sid: str) -> None:
        self._join_timeout.connected(eio_sid)

    def connected(self, sid: str, eio_sid: str) -> None:
        self._registry.add(sid, eio_sid)

    def closed(self, eio_sid: str) -> None:
        self._join_timeout.joined_or_gone(eio_sid)
        self._strikes.forget(eio_sid)

    def disconnected(self, sid: str, *, on_purpose: bool) -> None:
        """A client that leaves takes its session with it; one whose transport broke may come back to it."""
        socket = self._registry.remove(sid)
        if socket is None or socket.user is None or socket.session is None:
            return
        log.info("disconnected", user=socket.user, session=socket.session, on_purpose=on_purpose)
        if not on_purpose:
            if not self.stopping:
                self.lost(socket)
            return
        leave = presence.LeaveRequest(
            request_id=new_id(),
            user=socket.user,
            session=socket.session,
            gateway=self._instance,
            socket=sid,
            reason="hangup",
        )
        self._errands.run("leave", lambda: self._services.ask("presence", "leave", leave, Done))

    def lost(self, socket: Socket) -> None:
        """The transport of a socket broke; its session begins its grace."""
        assert socket.user is not None and socket.session is not None
        self._lose(socket.user, socket.session, socket.sid)

    def _lose(self, user: str, session: str, sid: str) -> None:
        lost = presence.LostRequest(
            request_id=new_id(), user=user, session=session, gateway=self._instance, socket=sid
        )
        self._errands.run("lost", lambda: self._services.ask("presence", "lost", lost, Done))

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
        self._strike(eio_sid)

    def _strike(self, eio_sid: str) -> None:
        if self._strikes.strike(eio_sid):
            log.warning("too much garbage: closing the connection", connection=eio_sid)
            self._transport.close_soon(eio_sid)

    async def event(self, sid: str, packet: EventPacket) -> None:
        """Handle one event. Whatever goes wrong is told to the client; nothing is raised."""
        socket = self._registry.by_sid(sid)
        if socket is None:
            return
        call_id = call_id_of(packet.args[0]) if packet.args else None
        asked = Asked(socket, packet.name, packet.ack_id, call_id)
        try:
            await self._handle(asked, packet)
        except SignallingError as error:
            log.debug("refused", refused=packet.name[:64], code=error.code, user=socket.user, call=call_id)
            self._replies.refuse(asked, error)
            if isinstance(error, BadRequest):
                self._strike(socket.eio_sid)
        except Exception:
            # A defect of ours: told to the operator in full, to the client as "try again".
            log.exception("event failed", failed=packet.name[:64], user=socket.user, call=call_id)
            self._replies.refuse(asked, Unavailable())

    async def _handle(self, asked: Asked, packet: EventPacket) -> None:
        event, socket = known(packet.name), asked.socket
        if event is not Event.JOIN and socket.session is None:
            raise NotAuthenticated
        message = validate(event, packet.args)
        sender = getattr(message, "from_", None)
        if sender is not None and sender != socket.user:
            raise Unauthorized
        call_id = getattr(message, "call_id", None)
        if call_id is not None and not could_be_minted(call_id):
            raise ReceiverNotFound if event in client.RELAYED else CallNotFound
        await self._handlers[event](asked, message)

    # --- one method an event -----------------------------------------------------------------------------------------

    async def _join(self, asked: Asked, message: Wire) -> None:
        join, socket = cast(client.Join, message), asked.socket
        if socket.user is not None and socket.user != join.user_id:
            raise Unauthorized
        request = presence.JoinRequest(
            request_id=new_id(),
            user=join.user_id,
            gateway=self._instance,
            socket=socket.sid,
            device=join.device_id,
            resume_session=join.resume.session_id if join.resume else None,
            resume_token=join.resume.token if join.resume else None,
        )
        if not self._lease_held():
            raise Unavailable
        with self._outbound.joining():
            reply = await self._services.ask("presence", "join", request, presence.JoinReply)
            if reply.resumed or reply.continued:
                resumed = await self._continue(asked, join, reply)
            else:
                resumed = False
                await self._joined(asked, join.user_id, reply, joined_seq(None, []))
                self._outbound.catch_up(socket)
        if reply.busy:
            await self._attached(socket, resumed=resumed)

    async def _continue(self, asked: Asked, join: client.Join, reply: presence.JoinReply) -> bool:
        """A session comes here from another socket: its client gets what it missed. Whether that is all of it."""
        recovery = await self._recoveries.begin(
            reply.session, self._outbound.on_elsewhere, elsewhere=reply.busy
        )
        last_seq = join.resume.last_seq if join.resume is not None and reply.resumed else None
        try:
            missed = await self._recoveries.look(
                reply.session, last_seq=last_seq, lost_at=reply.lost_at, since=reply.since
            )
            seq = joined_seq(last_seq, missed.missed)
            await self._joined(asked, join.user_id, reply, seq, resumed=missed.complete)
            await self._outbound.replay(asked.socket, recovery, missed)
        except BaseException:
            self._recoveries.abandon(recovery)
            raise
        return missed.complete

    async def _joined(
        self, asked: Asked, user: str, reply: presence.JoinReply, seq: int, *, resumed: bool = False
    ) -> None:
        socket = asked.socket
        if socket.gone:
            self._lose(user, reply.session, socket.sid)
            raise NotAuthenticated  # nobody hears it
        self._registry.bind(socket, user, reply.session)
        self._relays.moved(reply.session)
        socket.device, socket.token = reply.device, reply.resume_token
        self._join_timeout.joined_or_gone(socket.eio_sid)
        log.info("joined", user=user, session=reply.session, resumed=resumed)
        ice = self._ice_servers.issue(user)
        joined = client.Joined(
            user_id=user,
            socket_id=socket.sid,
            session_id=reply.session,
            resume=client.ResumeOffer(token=reply.resume_token, window_seconds=self._resume_window),
            ice_servers=ice.servers,
            ice_expires_at=ice.expires_at,
            resumed=resumed,
        )
        fields = {**joined.model_dump(by_alias=True, exclude_none=True), "seq": seq}
        self._transport.send_event(socket.eio_sid, Event.JOINED, dumps(fields))
        self._replies.ok(asked, **fields)

    async def _attached(self, socket: Socket, *, resumed: bool) -> None:
        """Tell call control that the session is here; what it then sends must not overtake ``user:joined``."""
        request = calls.AttachedRequest(**self._by(socket), resumed=resumed)
        try:
            await self._services.ask("calls", "attached", request, Done)
        except Unavailable:
            self._errands.run("attached", lambda: self._services.ask("calls", "attached", request, Done))

    async def _initiate(self, asked: Asked, message: Wire) -> None:
        initiate = cast(client.Initiate, message)
        if initiate.to == asked.socket.user:
            raise BadRequest("to: must be somebody else")
        request = calls.InitiateRequest(
            **self._by(asked.socket),
            call=new_id(),
            to=initiate.to,
            call_type=initiate.call_type,
            metadata=initiate.metadata,
        )
        reply = await self._ask("initiate", request, calls.InitiateReply)
        self._replies.ok(asked, callId=reply.call, to=reply.to, expiresAt=reply.expires_at)

    async def _accept(self, asked: Asked, message: Wire) -> None:
        call = cast(client.Accept, message).call_id
        request = calls.AcceptRequest(**self._by(asked.socket), call=call)
        await self._ask("accept", request, calls.CallReply)
        self._replies.ok(asked, callId=call)

    async def _reject(self, asked: Asked, message: Wire) -> None:
        reject = cast(client.Reject, message)
        request = calls.RejectRequest(**self._by(asked.socket), call=reject.call_id, reason=reject.reason)
        await self._ask("reject", request, calls.CallReply)
        self._replies.ok(asked, callId=reject.call_id)

    async def _end(self, asked: Asked, message: Wire) -> None:
        end = cast(client.End, message)
        request = calls.EndRequest(**self._by(asked.socket), call=end.call_id, reason=end.reason)
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
        request = presence.StatusRequest(request_id=new_id(), user=query.user_id)
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
            socket.envelopes = Envelopes()
        envelope = socket.envelopes.find(frame)
        if envelope is None:
            return False
        call = envelope.call or socket.calls.get(envelope.to)
        payload = envelope.payload(frame, call) if call is not None else None
        if call is None or payload is None:
            return False
        try:
            return self._relays.pass_on(socket, envelope.event, envelope.to, call, payload)
        except Unavailable as error:
            self._replies.refuse(Asked(socket, envelope.event, None, envelope.call), error)
            return True

    def _by(self, socket: Socket) -> dict[str, Any]:
        """Who asks, in every request to call control."""
        assert socket.user is not None and socket.session is not None
        return {
            "request_id": new_id(),
            "user": socket.user,
            "session": socket.session,
            "gateway": self._instance,
        }
