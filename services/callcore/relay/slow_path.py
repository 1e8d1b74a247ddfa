"""The long way of relays: those whose way is not plain from what the instance knows of their call.

A call that this instance does not know, or knew long ago; a session that it does not expect; an answer that accepts.
The call's lane stops, one task reads the call and decides by the table, and what arrives meanwhile waits in line.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from services.callcore.relay.route_cache import CachedCall, RouteCache, targets_of
from services.callcore.relay.sequence_tracker import SequenceCheck, SequenceTracker
from services.callcore.state import machine
from services.callcore.state.model import RELAY_KINDS, Address, Call, CallInput, InputKind, Outcome, State
from services.callcore.store import Store
from shared.contracts.client import RELAYED, Event
from shared.contracts.relays import stamped
from shared.contracts.wire import Wire
from shared.errors import CallNotFound, ReceiverNotFound, SignallingError, Unavailable
from shared.ids import decode, encode
from shared.messaging import mailbox
from shared.messaging.mailbox import MailboxMessage, MailboxPublisher
from shared.nats.connection import Bus
from shared.observability import logs, traces
from shared.subjects import ReceiptSubject

log = logs.get(__name__)

WAITING_MAX = 256
WAITING_MAX_BYTES = 1024 * 1024
"""Of one call, in line."""

Accept = Callable[[str, CallInput], Awaitable[Outcome]]
Refuse = Callable[[str, str, str, SignallingError], None]
"""(call, kind, receipt subject, why)"""


class PassOn(Protocol):
    """Delivers a relay to ``targets``."""

    def __call__(
        self,
        lane: CachedCall,
        targets: tuple[Address, ...],
        kind: str,
        reply: str,
        payload: bytes,
        *,
        first: bool,
    ) -> None: ...


class StateAnnouncement(Wire):
    """``relay.<callcore>.<call>.-.-.-.state``: a call and its revision.

    ``born``: nobody can have sent anything yet. ``rings``: the device that has just begun to ring, and must catch up.
    """

    call: Call
    revision: int
    born: bool = False
    rings: Address | None = None


class QueuedRelay(NamedTuple):
    """A relay as it came; users and the call are subject tokens. ``payload``: empty for one that is void."""

    call: str
    user: str
    session: str
    to: str
    kind: str
    reply: str
    receipt: ReceiptSubject
    payload: bytes


@dataclass(slots=True)
class RelayQueue:
    """Messages of one call that wait, in the order they came."""

    waiting: deque[QueuedRelay | StateAnnouncement] = field(default_factory=deque)
    size: int = 0


class SlowPath:
    """The lines of this instance. ``accept`` is the deed that an answer to a ringing call is."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        mailbox_publisher: MailboxPublisher,
        known: RouteCache,
        sequence_tracker: SequenceTracker,
        pass_on: PassOn,
        refuse: Refuse,
    ) -> None:
        self._bus = bus
        self._store = store
        self._mailbox_publisher = mailbox_publisher
        self._known = known
        self._sequence_tracker = sequence_tracker
        self._pass_on = pass_on
        self._refuse = refuse
        self._lines: dict[str, RelayQueue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.accept: Accept | None = None
        self.taken = 0
        """Relays that took this way, and those dropped because too many of their call waited for it."""
        self.dropped = 0

    async def stop(self, timeout: float) -> None:
        """Finish what waits, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def depths(self) -> tuple[int, int]:
        """How many calls have a line, and how many messages wait in lines."""
        lines = self._lines.values()
        return len(lines), sum(len(line.waiting) for line in lines)

    def has_line(self, call: str) -> bool:
        """Whether what comes for a call has to wait for what came before it."""
        return call in self._lines

    def wait(self, call: str, message: QueuedRelay | StateAnnouncement) -> None:
        """Put a message into the line of its call, which somebody works off. A relay too many is dropped."""
        line = self._lines.get(call)
        if isinstance(message, QueuedRelay) and line is not None:
            size = line.size + len(message.payload)
            if len(line.waiting) >= WAITING_MAX or size > WAITING_MAX_BYTES:
                self.dropped += 1
                log.debug("too many relays wait", call=call)
                return
        if line is None:
            self._known.close(call)
            line = self._lines[call] = RelayQueue()
            task = asyncio.create_task(self._work_off(call, line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        line.waiting.append(message)
        if isinstance(message, QueuedRelay):
            line.size += len(message.payload)

    async def _work_off(self, call: str, line: RelayQueue) -> None:
        try:
            while line.waiting:
                message = line.waiting.popleft()
                try:
                    if isinstance(message, StateAnnouncement):
                        await self._learn(message.call, message.revision, message.rings)
                    else:
                        line.size -= len(message.payload)
                        await self._in_line(message)
                except Unavailable as error:
                    log.debug("not now", call=call, reason=error.message)
                except Exception:
                    log.exception("relay failed", call=call)
        finally:
            del self._lines[call]

    # --- states ---------------------------------------------------------------------------------------------------

    async def _learn(self, call: Call, revision: int, rings: Address | None = None) -> CachedCall | None:
        """Learn a state of a call that may be new to this instance, and let the device that begins to ring catch up."""
        early: list[MailboxMessage] = []
        if call.state is State.RINGING:
            known = self._known.get(call.call)
            early = known.early if known is not None else await self._early_of(call, rings)
            if rings is not None:
                for letter in early:
                    self._mailbox_publisher.deliver(
                        rings.gateway, rings.session, letter.event, letter.payload
                    )
        return self._known.learn(call, revision, time.monotonic(), early)

    async def _early_of(self, call: Call, rings: Address | None) -> list[MailboxMessage]:
        """The early media of a call that rang before this instance knew of it, from a ringing device's mailbox.

        The mailbox of the device that begins to ring comes last: it has them only if the device rang before.
        """
        devices = sorted(call.ringing, key=lambda at: rings is not None and at.session == rings.session)
        if not devices:
            return []
        name = f'"callId":{json.dumps(call.call)}'.encode()
        early: dict[object, MailboxMessage] = {}
        for letter in await mailbox.read(self._bus, devices[0].session):
            if letter.event in RELAYED and name in letter.payload:
                relay = stamped(letter.payload)
                copy_of = (relay.session, relay.number) if relay is not None else len(early)
                if relay is not None:
                    self._sequence_tracker.known((relay.session, encode(call.call)), relay.number)
                body = letter.payload[: letter.payload.rindex(b',"seq":')] + b"}"
                early.setdefault(copy_of, MailboxMessage(letter.event, body))
        return list(early.values())

    # --- relays ---------------------------------------------------------------------------------------------------

    async def _in_line(self, relay: QueuedRelay) -> None:
        """One relay. Raises :class:`Unavailable` for one that is to come again."""
        key, receipt = (relay.session, relay.call), relay.receipt
        self.taken += 1
        self._sequence_tracker.alive(key, receipt)
        turn = self._sequence_tracker.turn(key, receipt)
        if turn is not SequenceCheck.ITS and turn is not SequenceCheck.AGAIN:
            return
        try:
            if relay.payload:
                await self._decide(relay, first=turn is SequenceCheck.ITS)
        except Unavailable:
            self._sequence_tracker.missed(key, receipt)
            raise
        except SignallingError as error:
            self._refuse(relay.call, relay.kind, relay.reply, error)
        except Exception:
            log.exception("relay failed", call=relay.call)
            self._refuse(relay.call, relay.kind, relay.reply, Unavailable())
        self._sequence_tracker.done(key, receipt)

    async def _decide(self, relay: QueuedRelay, *, first: bool) -> None:
        call, user, session, to, kind = relay[:5]
        lane = self._known.get(call)
        plain = lane is not None and _is_plain(lane, relay)
        if lane is None or not plain or lane.warm_until <= time.monotonic():
            lane = await self._read(call, known=lane if plain else None)
            # Of a ringing call that is new here, the mailboxes may have told that this one has been passed on.
            turn = self._sequence_tracker.turn((session, call), relay.receipt)
            if turn is SequenceCheck.OVER:
                return
            first = turn is SequenceCheck.ITS
        if lane is None or encode(lane.call.peer_of(decode(user))) != to:
            raise ReceiverNotFound
        # The gateway is not in the subject; it is only asked for where an answer accepts, from a ringing device.
        at = next(
            (a for a in lane.call.ringing if a.session == session), Address(session=session, gateway="")
        )
        # The same relay sent again is the same deed: an answer whose acceptance nobody was told of is told then.
        event = CallInput(RELAY_KINDS[Event(kind)], f"{session} {relay.receipt.number}", decode(user), at)
        try:
            outcome = machine.step(lane.call, event, 0)
        except CallNotFound:
            raise ReceiverNotFound from None
        if outcome.call is not lane.call or event.cause == lane.call.caused_by:
            outcome = await self._answer(lane.call.call, event)
            lane = self._known.get(call) or lane
        self._pass_on(lane, outcome.relay_to, kind, relay.reply, relay.payload, first=first)

    async def _read(self, call: str, known: CachedCall | None) -> CachedCall | None:
        """The lane of a call as it is stored, or as it is ``known`` while it cannot be read.

        Raises :class:`Unavailable` for one that can be neither.
        """
        try:
            found = await self._store.call(decode(call), fresh=False) if known is not None else None
            if found is None:
                found = await self._store.call(decode(call))
        except Unavailable:
            if known is None:
                raise
            if not known.unread:
                log.warning("call not read: going on with what is known of it", call=call)
            known.unread = True
            known.stay_warm(time.monotonic())
            return known
        return await self._learn(found.call, found.revision) if found is not None else None

    async def _answer(self, call: str, event: CallInput) -> Outcome:
        assert self.accept is not None and event.kind is InputKind.ANSWER and event.at is not None
        if not event.at.gateway:
            raise ReceiverNotFound
        if traces.active is None:
            return await self.accept(call, event)
        with traces.active.happening(Event.ANSWER, call):  # which accepts the call
            return await self.accept(call, event)


def _is_plain(lane: CachedCall, relay: QueuedRelay) -> bool:
    """Whether what is known of the call says where the relay goes."""
    if relay.kind == Event.ANSWER and lane.call.state is not State.ACCEPTED:
        return False
    return bool(targets_of(lane.call, relay.user, relay.session, relay.to))
