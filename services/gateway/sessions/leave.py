"""Notify presence of sessions that end, or whose sockets are lost."""

from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.registry import Socket
from services.gateway.sessions.backend import Backend
from shared.contracts import client, presence
from shared.contracts.client import Event
from shared.contracts.rpc import Done
from shared.ids import new_id
from shared.observability import logs

log = logs.get(__name__)


class LeaveService:
    """Sends ``leave`` and ``lost`` requests to presence in the background, because no client waits for them."""

    def __init__(self, clients: ConnectedClients, backend: Backend) -> None:
        self._registry = clients.registry
        self._server = clients.server
        self._sender = clients.server.sender
        self._instance = backend.instance
        self._rpc = backend.rpc
        self._retrier = backend.retrier

    def leave(self, socket: Socket, *, reason: str) -> None:
        """End the session of a socket. ``reason``: the reason that a peer in a call is sent."""
        assert socket.user is not None and socket.session is not None
        self.leave_session(socket, socket.user, socket.session, reason=reason)

    def leave_session(self, socket: Socket, user: str, session: str, *, reason: str) -> None:
        """End a session that presence has given to a socket, also before the socket speaks for it."""
        leave = presence.LeaveRequest(
            request_id=new_id(),
            user=user,
            session=session,
            gateway=self._instance,
            socket=socket.sid,
            reason=reason,
        )
        self._retrier.run("leave", lambda: self._rpc.ask("presence", "leave", leave, Done))

    def lost(self, socket: Socket) -> None:
        """Begin the grace period of a socket's session because its transport broke.

        That includes a session that presence has created for a join to which no reply has come yet.
        """
        user = socket.user or socket.joining_user
        assert user is not None
        unheard = socket.session is None or self._sender.unconfirmed(socket.eio_sid)
        self.lost_session(socket, user, socket.session, unheard=unheard)

    def lost_session(self, socket: Socket, user: str, session: str | None, *, unheard: bool) -> None:
        """Begin the grace period of a session. ``unheard``: True if its client may not have got ``user:joined``."""
        lost = presence.LostRequest(
            request_id=new_id(),
            user=user,
            session=session,
            gateway=self._instance,
            socket=socket.sid,
            unheard=unheard,
        )
        self._retrier.run("lost", lambda: self._rpc.ask("presence", "lost", lost, Done))

    def token_expired(self, sid: str) -> None:
        """End the session of a socket whose token has expired: notify its client, and close the connection."""
        socket = self._registry.by_sid(sid)
        if socket is None or socket.session is None:
            return
        log.info("token expired", user=socket.user, session=socket.session)
        self.leave(socket, reason="connection_lost")
        payload = client.SessionOver(session_id=socket.session).dump()
        self._registry.release(socket)
        self._sender.send_event(socket.eio_sid, Event.EXPIRED, payload)
        self._server.closer.close_soon(socket.eio_sid)
