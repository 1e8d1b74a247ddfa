"""Join clients: create or resume their sessions, and send ``user:joined``."""

from collections import Counter
from dataclasses import dataclass

from services.gateway.auth.turn_credentials import IceServers
from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.responder import ClientRequest
from services.gateway.protocol.json_codec import dumps
from services.gateway.relay.service import RelayService
from services.gateway.sessions.call_attacher import CallAttacher
from services.gateway.sessions.delivery import Delivery
from services.gateway.sessions.join_checks import JoinChecks
from services.gateway.sessions.join_requester import JoinRequester
from services.gateway.sessions.leave import LeaveService
from services.gateway.sessions.resume import ResumingSessions, joined_seq
from shared.contracts import calls, client, presence
from shared.contracts.client import Event
from shared.errors import InvalidState, NotAuthenticated, SignallingError, TokenExpired
from shared.observability import logs

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class JoinBackend:
    """Groups the requests of a join. ``leave_service``: ends the session of a join whose client cannot have it."""

    requester: JoinRequester
    attacher: CallAttacher
    leave_service: LeaveService


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """Describes ``user:joined`` besides the session. ``resume_window``: seconds in which it may be resumed."""

    ice_servers: IceServers
    resume_window: int


class JoinService:
    """Joins clients, and refreshes their tokens."""

    def __init__(
        self,
        clients: ConnectedClients,
        checks: JoinChecks,
        backend: JoinBackend,
        delivery: Delivery,
        resuming: ResumingSessions,
        relays: RelayService,
        terms: SessionTerms,
    ) -> None:
        self._registry = clients.registry
        self._sender = clients.server.sender
        self._responder = clients.responder
        self._checks = checks
        self._requester = backend.requester
        self._attacher = backend.attacher
        self._leave_service = backend.leave_service
        self._delivery = delivery
        self._resuming = resuming
        self._relays = relays
        self._terms = terms
        self.joins: Counter[str] = Counter()
        """Kind of join → how many: ``new``; ``resumed``, as requested; ``continued``, without a request to resume."""
        self.resumes: Counter[str] = Counter()
        """Result of a request to resume → how many: see :func:`_resume_result`; ``failed``: an error."""

    async def join(self, asked: ClientRequest, join: client.Join) -> None:
        """Handle ``user:join``. Raises the error that its client is to be sent."""
        try:
            reply, complete = await self._join(asked, join)
        except SignallingError:
            if join.resume is not None:
                self.resumes["failed"] += 1
            raise
        self.joins["resumed" if reply.resumed else "continued" if reply.continued else "new"] += 1
        if join.resume is not None:
            self.resumes[_resume_result(reply, complete=complete)] += 1

    async def refresh(self, asked: ClientRequest, refresh: client.Refresh) -> None:
        """Handle ``user:refresh``. Raises the error that its client is to be sent."""
        socket = asked.socket
        await self._checks.refresh(socket, refresh.token)
        refreshed = client.Refreshed(token_seconds=self._checks.seconds_left(socket))
        fields = refreshed.model_dump(by_alias=True, exclude_none=True)
        self._sender.send_event(socket.eio_sid, Event.REFRESH, dumps(fields))
        self._responder.ok(asked, **fields)

    async def _join(self, asked: ClientRequest, join: client.Join) -> tuple[presence.JoinReply, bool]:
        """Return the reply of presence, and True if the client has got all that its session was sent."""
        socket = asked.socket
        await self._checks.admit(socket, join)
        try:
            with self._delivery.joining():
                reply = await self._requester.request(socket, join)
                if reply.resumed or reply.continued:
                    return reply, await self._continue(asked, join, reply)
                call = await self._attacher.attach(socket, join.user_id, reply)
                seq = joined_seq(None, [])
                socket.positions.begin({}, since=0, upto=seq)
                await self._send_joined(asked, join.user_id, reply, seq, call)
                self._delivery.catch_up(socket)
            return reply, False
        finally:
            self._checks.join_ended(socket)

    async def _continue(self, asked: ClientRequest, join: client.Join, reply: presence.JoinReply) -> bool:
        """Continue a session of another socket: send ``user:joined`` and what the client missed.

        Return True if that is all that the client missed.
        """
        socket, user = asked.socket, join.user_id
        resume = await self._resuming.begin(
            reply.session, self._delivery.on_old_address, old_address=reply.busy
        )
        last_seq = join.resume.last_seq if join.resume is not None and reply.resumed else None
        try:
            call = await self._attacher.attach(socket, user, reply)
            if last_seq is None and call is not None and call.state == "ringing":
                missed = await self._resuming.read_since_ring(resume, call.call, call.created_at)
            else:
                missed = await self._resuming.read_missed(
                    resume, last_seq=last_seq, lost_at=reply.lost_at, since=reply.since, busy=reply.busy
                )
                if last_seq is None and call is None:
                    # An earlier client of the session got these; this one may be sent them again.
                    missed = missed._replace(before=[])
            seq = joined_seq(last_seq, missed.missed)
            socket.positions.begin(
                missed.received or {}, since=last_seq if last_seq is not None else seq, upto=seq
            )
            await self._send_joined(asked, user, reply, seq, call, resumed=missed.complete)
            if last_seq is None and call is not None and call.state == "accepted":
                socket.record_call_event(Event.ACCEPTED, call.call)  # user:joined has that call
            await self._delivery.replay(socket, resume, missed)
        except BaseException:
            self._resuming.abandon(resume)
            raise
        if reply.busy and reply.resumed and not missed.complete:
            # Callcore then sends a call that rings once more.
            await self._attacher.attach(socket, user, reply, resumed=False)
        return missed.complete

    async def _send_joined(
        self,
        asked: ClientRequest,
        user: str,
        reply: presence.JoinReply,
        seq: int,
        call: calls.HeldCall | None,
        *,
        resumed: bool = False,
    ) -> None:
        """Bind the socket to its session, and send ``user:joined``.

        Raises :class:`NotAuthenticated` if the client is gone, :class:`TokenExpired`, and :class:`InvalidState` if
        another socket has taken the session over.
        """
        socket = asked.socket
        if socket.gone:
            self._leave_service.lost_session(socket, user, reply.session, unheard=True)
            raise NotAuthenticated  # the client is gone: no reply reaches it
        if socket.replaced == reply.session:
            socket.joining_user = None
            await self._delivery.replaced(socket, reply.session)
            raise InvalidState("Another connection has taken the session over")
        try:
            self._checks.check_token(socket)
        except TokenExpired:
            socket.joining_user = None
            self._leave_service.leave_session(socket, user, reply.session, reason="connection_lost")
            raise
        if socket.session == reply.session and socket.seq >= seq:
            seq = socket.seq = socket.seq + 1  # it joins once more, and seq only grows
        self._registry.bind(socket, user, reply.session)
        socket.joining_user = None
        self._relays.session_moved(reply.session)
        socket.device, socket.token = reply.device, reply.resume_token
        self._checks.joined(socket)
        # For debugging only, because presence logs each join.
        log.debug("joined", user=user, session=reply.session, resumed=resumed)
        ice = self._terms.ice_servers.issue(user)
        joined = client.Joined(
            user_id=user,
            socket_id=socket.sid,
            session_id=reply.session,
            resume=client.ResumeOffer(token=reply.resume_token, window_seconds=self._terms.resume_window),
            ice_servers=ice.servers,
            ice_expires_at=ice.expires_at,
            token_seconds=self._checks.seconds_left(socket),
            resumed=resumed,
            call=_current(call),
        )
        payload = b'%b,"seq":%d}' % (joined.dump()[:-1], seq)
        self._sender.send_event(socket.eio_sid, Event.JOINED, payload)
        self._responder.ok_with(asked, payload)
        if reply.resumed or reply.continued:
            self._sender.request_confirmation(socket.eio_sid)


def _current(call: calls.HeldCall | None) -> client.CurrentCall | None:
    """Return the call for ``user:joined``; ``None`` for one that rings, which is sent as ``call:incoming``."""
    if call is None or not call.party:
        return None
    return client.CurrentCall(call_id=call.call, peer=call.peer, call_type=call.call_type, state=call.state)


def _resume_result(reply: presence.JoinReply, *, complete: bool) -> str:
    """Return ``complete``; ``gap`` if the client missed something; ``gone`` if the session had ended."""
    if not reply.resumed:
        return "gone"
    return "complete" if complete else "gap"
