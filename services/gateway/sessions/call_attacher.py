"""Notify callcore of sessions that come to this gateway."""

from services.gateway.clients.registry import Socket
from services.gateway.sessions.backend import Backend
from shared.contracts import calls, presence
from shared.errors import Unavailable
from shared.ids import new_id


class CallAttacher:
    """Sends ``attached`` requests to callcore, which then sends call events of the session to this gateway."""

    def __init__(self, backend: Backend) -> None:
        self._instance = backend.instance
        self._rpc = backend.rpc
        self._retrier = backend.retrier

    async def attach(
        self, socket: Socket, user: str, reply: presence.JoinReply, *, resumed: bool | None = None
    ) -> calls.HeldCall | None:
        """Return the call that the session is in, or that rings for it; ``None`` if callcore does not reply.

        Events that callcore then sends are kept until ``user:joined`` is written. Without a reply the request is
        retried in the background. ``resumed``: that of ``reply`` if ``None``.
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
            return (await self._rpc.ask("calls", "attached", request, calls.AttachedReply)).call
        except Unavailable:

            async def retry() -> None:
                if not socket.gone and socket.session in (None, reply.session):
                    await self._rpc.ask("calls", "attached", request, calls.AttachedReply)

            self._retrier.run("attached", retry)
            return None
