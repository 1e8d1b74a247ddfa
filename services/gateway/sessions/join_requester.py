"""Request sessions of presence for clients that join."""

import asyncio

from services.gateway.clients.registry import Socket
from services.gateway.limits.lifo_gate import LifoGate
from services.gateway.sessions.backend import Backend
from services.gateway.sessions.gateway_lease import GatewayLease
from services.gateway.sessions.join_batcher import JoinBatcher
from services.gateway.sessions.leave import LeaveService
from shared.contracts import client, presence
from shared.errors import NotAuthenticated, NotSent, SignallingError, Unavailable
from shared.ids import new_id

RESUMES_AT_ONCE = 16
"""Resumes that presence is asked for at a time, because other joins are not to wait for thousands of them."""


class JoinRequester:
    """Sends joins to presence: new sessions in batches, resumes a few at a time."""

    def __init__(self, backend: Backend, lease: GatewayLease, leave_service: LeaveService) -> None:
        self._instance = backend.instance
        self._rpc = backend.rpc
        self._lease = lease
        self._leave_service = leave_service
        self._batcher = JoinBatcher(backend.rpc)
        self._resumes = LifoGate(RESUMES_AT_ONCE)

    async def request(self, socket: Socket, join: client.Join) -> presence.JoinReply:
        """Return the session of a client that joins.

        Raises :class:`shared.errors.Unavailable`, also while this gateway holds no lease, and the errors of presence.
        """
        request = presence.JoinsRequest(
            request_id=new_id(),
            user=join.user_id,
            gateway=self._instance,
            socket=socket.sid,
            device=join.device_id,
            resume_session=join.resume.session_id if join.resume else None,
            resume_token=join.resume.token if join.resume else None,
        )
        if not self._lease.held:
            raise Unavailable
        if join.resume is None:
            return await self._ask(socket, request)
        async with self._resumes.slot():
            if socket.gone:
                raise NotAuthenticated  # the client is gone: no reply reaches it
            return await self._ask(socket, request)

    async def _ask(self, socket: Socket, request: presence.JoinsRequest) -> presence.JoinReply:
        """Send the request. The socket claims its user until ``user:joined`` is sent, or presence has refused."""
        socket.joining_user, socket.replaced = request.user, None
        try:
            return await self._batcher.join(request)
        except NotSent:
            socket.joining_user = None
            raise
        except Unavailable:
            if socket.gone:
                # Presence may still handle the request until its timeout.
                await asyncio.sleep(self._rpc.timeout)
                self._leave_service.lost(socket)
            raise
        except SignallingError:
            socket.joining_user = None
            raise
