"""Handle client events that join a session, and that refresh its token."""

from typing import cast

from services.gateway.clients.responder import ClientRequest
from services.gateway.sessions.join import JoinService
from shared.contracts import client
from shared.contracts.wire import Wire


class SessionEvents:
    """Handles session events: one method an event. Each raises the error that its client is to be sent."""

    def __init__(self, join_service: JoinService) -> None:
        self._join_service = join_service

    async def join(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``user:join``."""
        await self._join_service.join(asked, cast(client.Join, message))

    async def refresh(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``user:refresh``."""
        await self._join_service.refresh(asked, cast(client.Refresh, message))
