"""What this instance has passed on of each session's relays, and telling the gateways so.

An acknowledgement leaves on the same connection after the letters it is about, so one that arrives says that NATS has
taken them. Relays of one session for one call are passed on in the order of their numbers and without a gap: one that
comes before its turn is dropped, and its gateway told to send from where it is acknowledged.
"""

import asyncio
from collections import OrderedDict
from enum import Enum
from itertools import islice

from shared import logs, subjects
from shared.bus import Bus
from shared.contracts.relays import Acks
from shared.errors import Unavailable
from shared.subjects import Receipt

log = logs.get(__name__)

FLOWS_MAX = 100_000
"""Sessions, each with one call, whose last number is remembered; those idle for longest are forgotten."""
TELL_SECONDS = 0.03
"""How long acknowledgements are gathered."""
TOLD_AT_ONCE = 2_000
"""Entries of one message at most."""

Key = tuple[str, str]
"""(session, call token)"""


class Turn(Enum):
    """What is to be done with a relay that has come."""

    ITS = "pass it on"
    AGAIN = "pass it on once more: what became of it before may be lost"
    OVER = "it has been passed on"
    NOT_YET = "one before it has not come"


class Ledger:
    """The numbers of one instance. ``instance``: its name."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus = bus
        self._instance = instance
        self._last: OrderedDict[Key, int] = OrderedDict()
        self._done: dict[str, dict[Key, int]] = {}
        self._gaps: dict[str, set[Key]] = {}
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell."""
        self._bus.on_reconnect.append(self._doubt)
        self._task = asyncio.create_task(self._run(), name="acknowledgements")

    async def stop(self) -> None:
        """Tell what has not been told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._tell()

    # --- what has been passed on ------------------------------------------------------------------------------------

    def turn(self, call: str, receipt: Receipt) -> Turn:
        """Whether it is a relay's turn. If not, its gateway will be told where this instance is."""
        key = (receipt.session, call)
        last = self._last.get(key, 0)
        if receipt.number > last:
            if subjects.FOLLOWS in receipt.marks and last + 1 != receipt.number:
                self.missed(call, receipt)
                return Turn.NOT_YET
            return Turn.ITS
        if subjects.AGAIN in receipt.marks:
            return Turn.AGAIN
        self.alive(call, receipt)
        return Turn.OVER

    def done(self, call: str, receipt: Receipt) -> None:
        """A relay has been passed on, or refused: it need not come again."""
        key = (receipt.session, call)
        last = max(receipt.number, self._last.get(key, 0))
        self._last[key] = last
        self._last.move_to_end(key)
        if len(self._last) > FLOWS_MAX:
            self._last.popitem(last=False)
        self._note(key, receipt.gateway, last)

    def known(self, call: str, session: str, number: int) -> None:
        """Another instance has passed this one on."""
        key = (session, call)
        self._last[key] = max(number, self._last.get(key, 0))

    def alive(self, call: str, receipt: Receipt) -> None:
        """Have the gateway told how far this instance is, which also says that it is there."""
        key = (receipt.session, call)
        self._note(key, receipt.gateway, self._last.get(key, 0))

    def missed(self, call: str, receipt: Receipt) -> None:
        """Have the gateway send again what is not acknowledged."""
        self._gaps.setdefault(receipt.gateway, set()).add((receipt.session, call))
        self._dirty.set()

    def _note(self, key: Key, gateway: str, last: int) -> None:
        done = self._done.get(gateway)
        if done is None:
            done = self._done[gateway] = {}
            self._dirty.set()
        done[key] = last

    # --- telling ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(TELL_SECONDS)
            await self._tell()

    async def _tell(self) -> None:
        """Tell what has been gathered. What cannot be told now need not be: the relays come again."""
        self._dirty.clear()
        done, self._done = self._done, {}
        gaps, self._gaps = self._gaps, {}
        try:
            for gateway in {**done, **gaps}:
                entries = iter([(*key, last) for key, last in done.get(gateway, {}).items()])
                missed = tuple(gaps.get(gateway, ()))
                while (some := tuple(islice(entries, TOLD_AT_ONCE))) or missed:
                    told = Acks(by=self._instance, done=some, gaps=missed[:TOLD_AT_ONCE])
                    missed = missed[TOLD_AT_ONCE:]
                    await self._bus.publish(subjects.acks(gateway), told.dump())
        except Unavailable:
            log.debug("acknowledgements not sent: NATS is away")

    async def _doubt(self) -> None:
        """What was published just before the connection broke may be lost, acknowledged or not."""
        try:
            await self._bus.publish(subjects.DOUBT)
        except Unavailable:
            log.debug("connection lost again")
