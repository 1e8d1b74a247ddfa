"""Ask the gateway that a client comes from which relays the client has got, and answer such questions.

The mailbox says that, too. A gateway asks where the mailbox is newer than what the client has got: NATS was killed,
and the gateways of senders send relays of the last seconds again.
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
"""The other gateway may still be on its way back to NATS; then it is asked again."""


class Handover:
    """Knows what clients have got of relays, as far as any gateway does."""

    def __init__(self, bus: Bus, registry: Registry) -> None:
        self._bus = bus
        self._registry = registry

    async def start(self) -> None:
        """Begin to answer."""
        await self._bus.subscribe(subjects.HEARD_ALL, self._on_question)

    async def heard_of(self, session: str, seq: int) -> dict[str, int] | None:
        """Return sending session → number of the last relay that the client of ``session`` had got when it got ``seq``.

        ``None`` if no gateway says so within :data:`TRIES` times :data:`TRY_SECONDS`.
        """
        heard = self._registry.heard_of(session, seq)
        for _ in range(TRIES):
            if heard is not None:
                break
            try:
                # Gateways that do not know stay silent.
                answer = await self._bus.request(
                    subjects.heard(session), str(seq).encode(), timeout=TRY_SECONDS
                )
                heard = RelaysHeard.model_validate_json(answer.data).relays
            except Unavailable:
                if not self._bus.connected:
                    await asyncio.sleep(TRY_SECONDS)
        if heard is None:
            log.info("no gateway knows what a client has heard", session=session)
        return heard

    async def _on_question(self, msg: Msg) -> None:
        heard = self._registry.heard_of(subjects.heard_session(msg.subject), int(msg.data))
        if heard is not None:
            await msg.respond(RelaysHeard(relays=heard).dump())
