"""The mailbox of a session: sending into it, and reading back what was sent."""

import json
from typing import NamedTuple

from shared import subjects
from shared.bus import Bus
from shared.clock import SeqClock

READ_MAX = 1_000
"""Messages read back at most."""


class Letter(NamedTuple):
    """One message of a mailbox: a client-visible event and its JSON, ``seq`` included."""

    event: str
    payload: bytes


class Postman:
    """Delivers events to sessions and mints their ``seq``."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._seq = SeqClock()

    async def deliver(self, gateway: str, session: str, event: str, payload: bytes, reply: str = "") -> None:
        """Send ``payload`` (a JSON object that is not empty) with a fresh ``seq``.

        ``reply``: the receipt subject that the gateway answers on. Raises :class:`shared.errors.Unavailable`.
        """
        await self._bus.publish(
            subjects.deliver(gateway, session, event),
            b'%b,"seq":%d}' % (payload[:-1], self._seq.next()),
            reply,
        )


async def read(bus: Bus, session: str, *, after: int = 0, limit: int = READ_MAX) -> list[Letter]:
    """What was sent to a session since the stream sequence ``after``, oldest first, as far as the stream reaches."""
    letters: list[Letter] = []
    while len(letters) < limit:
        query = json.dumps({"seq": after + 1, "next_by_subj": subjects.mailbox(session)}).encode()
        msg = await bus.request(f"$JS.API.DIRECT.GET.{subjects.STREAM_DELIVER}", query, timeout=2.0)
        headers = msg.headers or {}
        if "Nats-Sequence" not in headers:
            break
        after = int(headers["Nats-Sequence"])
        letters.append(Letter(subjects.parse_deliver(headers["Nats-Subject"])[1], msg.data))
    return letters
