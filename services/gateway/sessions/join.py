"""How a socket comes to speak for a session, and how that ends."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from services.gateway.auth.authenticator import Authenticator
from services.gateway.auth.turn_credentials import IceServers
from services.gateway.clients.registry import Registry, Socket
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.limits.join_timeout import JoinTimeout
from services.gateway.limits.lifo_gate import LifoGate
from services.gateway.limits.rate_limiter import RateLimiter
from services.gateway.protocol.invisible_characters import has_invisible
from services.gateway.protocol.json_codec import dumps
from services.gateway.relay.service import RelayService
from services.gateway.sessions.background_retry import BackgroundRetrier
from services.gateway.sessions.delivery import Delivery
from services.gateway.sessions.join_batcher import JoinBatcher
from services.gateway.sessions.resume import ResumingSessions, joined_seq
from services.gateway.transport.socketio_server import SocketIOServer
from shared.contracts import calls, client, presence
from shared.contracts.client import Event
from shared.contracts.rpc import Done
from shared.errors import (
    BadRequest,
    InvalidState,
    NotAuthenticated,
    NotSent,
    SignallingError,
    TokenExpired,
    Unauthorized,
    Unavailable,
)
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.observability import logs

log = logs.get(__name__)

RESUMES_AT_ONCE = 16
"""Asked of presence: thousands may come back at once, and who joins meanwhile is not to wait for them."""


class JoinService:
    """Lets clients in, and sends them away when their token ends. ``instance`` is this gateway's name in addresses."""

    def __init__(
        self,
        instance: str,
        registry: Registry,
        transport: SocketIOServer,
        replies: Responder,
        services: RpcClient,
        relays: RelayService,
        outbound: Delivery,
        resuming: ResumingSessions,
        retrier: BackgroundRetrier,
        auth: Authenticator,
        join_timeout: JoinTimeout,
        connections: ConnectionLimits,
        rates: RateLimiter,
        *,
        lease_held: Callable[[], bool],
        ice_servers: IceServers,
        resume_window: int,
        refuse_invisible: bool,
    ) -> None:
        self._instance = instance
        self._registry = registry
        self._transport = transport
        self._replies = replies
        self._services = services
        self._relays = relays
        self._outbound = outbound
        self._resuming = resuming
        self._retrier = retrier
        self._auth = auth
        self._join_timeout = join_timeout
        self._connections = connections
        self._rates = rates
        self._lease_held = lease_held
        self._ice_servers = ice_servers
        self._resume_window = resume_window
        self._refuse_invisible = refuse_invisible
        self._join_batcher = JoinBatcher(services)
        self._resumes = LifoGate(RESUMES_AT_ONCE)
        auth.expired = self._expired
        self.joins: Counter[str] = Counter()
        """``new`` sessions; those ``resumed`` as asked, and those ``continued`` though nobody asked."""
        self.resumes: Counter[str] = Counter()
        """What came of a join that was to resume: see :func:`_resume_result`; ``failed``: an error."""

    # --- in -------------------------------------------------------------------------------------------------------

    async def join(self, asked: ClientRequest, join: client.Join) -> None:
        """``user:join``"""
        try:
            reply, resumed = await self._let_in(asked, join)
        except SignallingError:
            if join.resume is not None:
                self.resumes["failed"] += 1
            raise
        self.joins["resumed" if reply.resumed else "continued" if reply.continued else "new"] += 1
        if join.resume is not None:
            self.resumes[_resume_result(reply, complete=resumed)] += 1

    async def _let_in(self, asked: ClientRequest, join: client.Join) -> tuple[presence.JoinReply, bool]:
        """What presence said, and whether the client has got all that its session was sent."""
        socket = asked.socket
        if self._refuse_invisible and has_invisible(join.user_id):
            raise BadRequest("userId: must not contain bidirectional controls or zero-width characters")
        if socket.user is not None and socket.user != join.user_id:
            raise Unauthorized
        await self._auth.joining(socket.sid, join.user_id, join.token)
        if socket.gone:
            self._auth.gone(socket.sid)
            raise NotAuthenticated  # nobody hears it
        self._rates.joined(socket.rates, join.user_id)
        self._connections.joining(socket.eio_sid)
        try:
            return await self._admit(asked, join)
        finally:
            if socket.session is None:
                self._rates.left(socket.rates)
                self._connections.not_joined(socket.eio_sid)

    async def _admit(self, asked: ClientRequest, join: client.Join) -> tuple[presence.JoinReply, bool]:
        """Who the client is has been settled; the rest of :meth:`_let_in`."""
        socket = asked.socket
        request = presence.JoinsRequest(
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
            if join.resume is None:
                reply = await self._ask_in(socket, request)
            else:
                async with self._resumes.turn():
                    if socket.gone:
                        raise NotAuthenticated  # nobody hears it
                    reply = await self._ask_in(socket, request)
            if reply.resumed or reply.continued:
                resumed = await self._continue(asked, join, reply)
            else:
                resumed = False
                held = await self._attach(socket, join.user_id, reply)
                seq = joined_seq(None, [])
                socket.positions.begin({}, since=0, upto=seq)
                await self._joined(asked, join.user_id, reply, seq, held)
                self._outbound.catch_up(socket)
        return reply, resumed

    async def _ask_in(self, socket: Socket, request: presence.JoinsRequest) -> presence.JoinReply:
        """Have presence bring a user in. Until its client is told of it, a session that it has here is unheard of."""
        socket.claims, socket.replaced = request.user, None
        try:
            return await self._join_batcher.join(request)
        except NotSent:
            socket.claims = None
            raise
        except Unavailable:
            if socket.gone:
                # It may be done yet, for as long as its time is not over.
                await asyncio.sleep(self._services.timeout)
                self.lost(socket)
            raise
        except SignallingError:
            socket.claims = None
            raise

    async def _continue(self, asked: ClientRequest, join: client.Join, reply: presence.JoinReply) -> bool:
        """A session comes here from another socket: its client gets what it missed. Whether that is all of it."""
        recovery = await self._resuming.begin(
            reply.session, self._outbound.on_elsewhere, elsewhere=reply.busy
        )
        last_seq = join.resume.last_seq if join.resume is not None and reply.resumed else None
        try:
            held = await self._attach(asked.socket, join.user_id, reply)
            if last_seq is None and held is not None and held.state == "ringing":
                missed = await self._resuming.look_from_ring(recovery, held.call, held.created_at)
            else:
                missed = await self._resuming.look(
                    recovery, last_seq=last_seq, lost_at=reply.lost_at, since=reply.since, busy=reply.busy
                )
                if last_seq is None and held is None:
                    missed = missed._replace(before=[])  # what the client before it heard may be told again
            seq = joined_seq(last_seq, missed.missed)
            asked.socket.positions.begin(
                missed.heard or {}, since=last_seq if last_seq is not None else seq, upto=seq
            )
            await self._joined(asked, join.user_id, reply, seq, held, resumed=missed.complete)
            if last_seq is None and held is not None and held.state == "accepted":
                asked.socket.hears_first(Event.ACCEPTED, held.call)  # user:joined has told of it
            await self._outbound.replay(asked.socket, recovery, missed)
        except BaseException:
            self._resuming.abandon(recovery)
            raise
        if reply.busy and reply.resumed and not missed.complete:
            await self._attach(
                asked.socket, join.user_id, reply, resumed=False
            )  # tells a call that rings once more
        return missed.complete

    async def _joined(
        self,
        asked: ClientRequest,
        user: str,
        reply: presence.JoinReply,
        seq: int,
        held: calls.HeldCall | None,
        *,
        resumed: bool = False,
    ) -> None:
        socket = asked.socket
        if socket.gone:
            self._lose(user, reply.session, socket.sid, unheard=True)
            raise NotAuthenticated  # nobody hears it
        if socket.replaced == reply.session:
            socket.claims = None
            await self._outbound.replaced(socket, reply.session)
            raise InvalidState("Another connection has taken the session over")
        try:
            self._auth.joined(socket.sid)
        except TokenExpired:
            socket.claims = None
            self._leave(user, reply.session, socket.sid, reason="connection_lost")
            raise
        if socket.session == reply.session and socket.seq >= seq:
            seq = socket.seq = socket.seq + 1  # it joins once more, and seq only grows
        self._registry.bind(socket, user, reply.session)
        socket.claims = None
        self._relays.session_moved(reply.session)
        socket.device, socket.token = reply.device, reply.resume_token
        self._join_timeout.joined_or_gone(socket.eio_sid)
        log.debug("joined", user=user, session=reply.session, resumed=resumed)  # presence says it
        ice = self._ice_servers.issue(user)
        joined = client.Joined(
            user_id=user,
            socket_id=socket.sid,
            session_id=reply.session,
            resume=client.ResumeOffer(token=reply.resume_token, window_seconds=self._resume_window),
            ice_servers=ice.servers,
            ice_expires_at=ice.expires_at,
            token_seconds=self._auth.seconds_left(socket.sid),
            resumed=resumed,
            call=_current(held),
        )
        told = b'%b,"seq":%d}' % (joined.dump()[:-1], seq)
        self._transport.sender.send_event(socket.eio_sid, Event.JOINED, told)
        self._replies.ok_with(asked, told)
        if reply.resumed or reply.continued:
            self._transport.sender.request_confirmation(socket.eio_sid)

    async def _attach(
        self, socket: Socket, user: str, reply: presence.JoinReply, *, resumed: bool | None = None
    ) -> calls.HeldCall | None:
        """Tell call control that a session is here, and return the call that it has or that rings for it.

        What call control then sends is kept until ``user:joined`` is written. ``resumed``: that of ``reply`` if
        ``None``. If call control does not answer it is told later, and the call of the session is not known.
        """
        if not reply.busy:
            return None
        request = calls.AttachedRequest(
            request_id=new_id(),
            user=user,
            session=reply.session,
            gateway=self._instance,
            resumed=reply.resumed if resumed is None else resumed,
        )
        try:
            return (await self._services.ask("calls", "attached", request, calls.AttachedReply)).call
        except Unavailable:

            async def later() -> None:
                if not socket.gone and socket.session in (None, reply.session):
                    await self._services.ask("calls", "attached", request, calls.AttachedReply)

            self._retrier.run("attached", later)
            return None

    async def refresh(self, asked: ClientRequest, refresh: client.Refresh) -> None:
        """``user:refresh``: the session goes on for as long as the fresh token holds."""
        socket = asked.socket
        assert socket.user is not None
        await self._auth.refresh(socket.sid, socket.user, refresh.token)
        if socket.gone:
            self._auth.gone(socket.sid)
            raise NotAuthenticated  # nobody hears it
        refreshed = client.Refreshed(token_seconds=self._auth.seconds_left(socket.sid))
        fields = refreshed.model_dump(by_alias=True, exclude_none=True)
        self._transport.sender.send_event(socket.eio_sid, Event.REFRESH, dumps(fields))
        self._replies.ok(asked, **fields)

    # --- out ------------------------------------------------------------------------------------------------------

    def leave(self, socket: Socket, *, reason: str) -> None:
        """The session of a socket ends. ``reason``: what a peer in a call is told."""
        assert socket.user is not None and socket.session is not None
        self._leave(socket.user, socket.session, socket.sid, reason=reason)

    def _leave(self, user: str, session: str, sid: str, *, reason: str) -> None:
        leave = presence.LeaveRequest(
            request_id=new_id(), user=user, session=session, gateway=self._instance, socket=sid, reason=reason
        )
        self._retrier.run("leave", lambda: self._services.ask("presence", "leave", leave, Done))

    def lost(self, socket: Socket) -> None:
        """The transport of a socket broke; its session, also one that it does not know of yet, begins its grace."""
        user = socket.user or socket.claims
        assert user is not None
        unheard = socket.session is None or self._transport.sender.unconfirmed(socket.eio_sid)
        self._lose(user, socket.session, socket.sid, unheard=unheard)

    def _lose(self, user: str, session: str | None, sid: str, *, unheard: bool) -> None:
        lost = presence.LostRequest(
            request_id=new_id(),
            user=user,
            session=session,
            gateway=self._instance,
            socket=sid,
            unheard=unheard,
        )
        self._retrier.run("lost", lambda: self._services.ask("presence", "lost", lost, Done))

    def _expired(self, sid: str) -> None:
        """The token of a socket has run out, and its session with it: its client is told, and goes."""
        socket = self._registry.by_sid(sid)
        if socket is None or socket.session is None:
            return
        log.info("token expired", user=socket.user, session=socket.session)
        self.leave(socket, reason="connection_lost")
        told = client.SessionOver(session_id=socket.session).dump()
        self._registry.release(socket)
        self._transport.sender.send_event(socket.eio_sid, Event.EXPIRED, told)
        self._transport.closer.close_soon(socket.eio_sid)

    # --- who asks -------------------------------------------------------------------------------------------------

    def by(self, socket: Socket) -> dict[str, Any]:
        """Who asks, in every request to call control."""
        assert socket.user is not None and socket.session is not None
        return {
            "request_id": new_id(),
            "user": socket.user,
            "session": socket.session,
            "gateway": self._instance,
        }


def _current(held: calls.HeldCall | None) -> client.CurrentCall | None:
    """The call that a client is told with ``user:joined``; one that rings for it comes as ``call:incoming``."""
    if held is None or not held.party:
        return None
    return client.CurrentCall(call_id=held.call, peer=held.peer, call_type=held.call_type, state=held.state)


def _resume_result(reply: presence.JoinReply, *, complete: bool) -> str:
    """``complete``: nothing is missed. ``gap``: something is. ``gone``: the session was not there any more."""
    if not reply.resumed:
        return "gone"
    return "complete" if complete else "gap"
