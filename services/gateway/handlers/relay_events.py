"""Handle offers, answers and candidates that the fast path has not taken."""

from typing import cast

from services.gateway.clients.responder import ClientRequest
from services.gateway.handlers.relay_fast_path import RelayFastPath
from services.gateway.relay.service import RelayService
from shared.contracts import client
from shared.contracts.wire import Wire


class RelayEvents:
    """Handles relays on the slow path, and has the fast path learn from them."""

    def __init__(self, relays: RelayService, fast_path: RelayFastPath) -> None:
        self._relays = relays
        self._fast_path = fast_path

    async def relay(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``call:offer``, ``call:answer`` or ``ice:candidate``. Raises the error for its client."""
        relayed = cast(client.Relayed, message)
        await self._relays.send(asked, relayed)
        self._fast_path.learn(asked, relayed)
