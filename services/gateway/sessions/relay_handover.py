"""Ask other gateways which relays a resuming client has received, and answer such requests.

Usually the mailbox shows that. A gateway asks if the mailbox is newer than what the client has received: then NATS was
killed, and the gateways of senders retransmit relays of the last seconds.
"""

import asyncio

from nats.aio.msg import Msg

from services.gateway.clients.registry import Registry
from shared import subjects
from shared.contracts.relays import RelaysHeard
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)

TRIES = 4
TRY_SECONDS = 0.4
"""Timeout of one try. The other gateway may still be reconnecting to NATS."""


class RelayHandover:
    """Finds the relays that clients have received on their earlier sockets."""

    def __init__(self, bus: Bus, registry: Registry) -> None:
        self._bus = bus
        self._registry = registry

    async def start(self) -> None:
        """Subscribe to the requests of other gateways."""
        await self._bus.subscribe(subjects.HEARD_ALL, self._on_request)

    async def relays_received(self, session: str, seq: int) -> dict[str, int] | None:
        """Return sending session → number of the last relay that the client of ``session`` had received with ``seq``.

        ``None`` if no gateway replies within :data:`TRIES` times :data:`TRY_SECONDS`.
        """
        received = self._registry.relays_received(session, seq)
        for _ in range(TRIES):
            if received is not None:
                break
            try:
                # Gateways that do not know do not reply.
                reply = await self._bus.request(
                    subjects.heard(session), str(seq).encode(), timeout=TRY_SECONDS
                )
                received = RelaysHeard.model_validate_json(reply.data).relays
            except Unavailable:
                if not self._bus.connected:
                    await asyncio.sleep(TRY_SECONDS)
        if received is None:
            log.info("no gateway knows which relays a client has received", session=session)
        return received

    async def _on_request(self, msg: Msg) -> None:
        received = self._registry.relays_received(subjects.heard_session(msg.subject), int(msg.data))
        if received is not None:
            await msg.respond(RelaysHeard(relays=received).dump())
