"""The slow path of relays: queue the relays of a call while its stored state is read and the table decides.

A relay takes the slow path if its call is not cached, or is no longer fresh; if its session is not expected; or if it
is an answer that accepts. Routes of the call are closed, one task processes its queue, and later relays of the call
queue behind.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from services.callcore.relay.delivery import RelayDelivery
from services.callcore.relay.route_cache import CachedCall, RouteCache, targets_of
from services.callcore.relay.sequence_tracker import SequenceCheck, SequenceTracker
from services.callcore.state import machine
from services.callcore.state.model import RELAY_KINDS, Address, Call, CallInput, InputKind, Outcome, State
from services.callcore.store import Store
from shared.contracts.call_records import StateAnnouncement
from shared.contracts.client import RELAYED, Event
from shared.contracts.relays import stamped
from shared.errors import CallNotFound, ReceiverNotFound, SignallingError, Unavailable
from shared.ids import decode, encode
from shared.messaging.mailbox import MailboxMessage
from shared.observability import logs, traces
from shared.subjects import ReceiptSubject

log = logs.get(__name__)

Accept = Callable[[str, CallInput], Awaitable[Outcome]]
"""Applies the input of an answer to a ringing call: (call, input) → outcome."""
ReadMailbox = Callable[[str], Awaitable[list[MailboxMessage]]]
"""Returns the mailbox of a session, oldest message first. Raises :class:`Unavailable`."""


class QueueLimits(NamedTuple):
    """Limits of the queue of one call; relays past them are dropped."""

    messages: int = 256
    size: int = 1024 * 1024
    """In bytes."""


class QueuedRelay(NamedTuple):
    """A relay as it was received; users and the call are subject tokens. ``payload``: empty for a void relay."""

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
    """The messages of one call that wait, in the order received. ``size``: in bytes."""

    waiting: deque[QueuedRelay | StateAnnouncement] = field(default_factory=deque)
    size: int = 0


class SlowPath:
    """The relay queues of this instance, one for each call. ``limits``: of one queue."""

    def __init__(
        self,
        store: Store,
        read_mailbox: ReadMailbox,
        route_cache: RouteCache,
        sequence_tracker: SequenceTracker,
        delivery: RelayDelivery,
        accept: Accept,
        limits: QueueLimits = QueueLimits(),  # noqa: B008  # immutable
    ) -> None:
        self._store = store
        self._read_mailbox = read_mailbox
        self._route_cache = route_cache
        self._sequence_tracker = sequence_tracker
        self._delivery = delivery
        self._accept = accept
        self._limits = limits
        self._queues: dict[str, RelayQueue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.processed = 0
        """Relays that took the slow path."""
        self.dropped = 0
        """Relays dropped because the queue of their call was full."""

    async def stop(self, timeout: float) -> None:
        """Process what is queued, for ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def depths(self) -> tuple[int, int]:
        """Return the number of queues, and of messages in them."""
        queues = self._queues.values()
        return len(queues), sum(len(queue.waiting) for queue in queues)

    def has_queue(self, call: str) -> bool:
        """Return True if messages of a call have to wait for earlier ones."""
        return call in self._queues

    def enqueue(self, call: str, message: QueuedRelay | StateAnnouncement) -> None:
        """Queue a message of a call, and start to process its queue. A relay past the limits is dropped."""
        queue = self._queues.get(call)
        if isinstance(message, QueuedRelay) and queue is not None:
            size = queue.size + len(message.payload)
            if len(queue.waiting) >= self._limits.messages or size > self._limits.size:
                self.dropped += 1
                log.debug("relay dropped: the queue of its call is full", call=call)
                return
        if queue is None:
            self._route_cache.close_routes(call)
            queue = self._queues[call] = RelayQueue()
            task = asyncio.create_task(self._process(call, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.waiting.append(message)
        if isinstance(message, QueuedRelay):
            queue.size += len(message.payload)

    async def _process(self, call: str, queue: RelayQueue) -> None:
        try:
            while queue.waiting:
                message = queue.waiting.popleft()
                try:
                    if isinstance(message, StateAnnouncement):
                        await self._update_cache(message.call, message.revision, message.rings)
                    else:
                        queue.size -= len(message.payload)
                        await self._process_relay(message)
                except Unavailable as error:
                    log.debug("not now", call=call, reason=error.message)
                except Exception:
                    log.exception("relay failed", call=call)
        finally:
            del self._queues[call]

    # --- states ---------------------------------------------------------------------------------------------------

    async def _update_cache(
        self, call: Call, revision: int, rings: Address | None = None
    ) -> CachedCall | None:
        """Cache a state that may be new to this instance; send the early media to the device that begins to ring."""
        early: list[MailboxMessage] = []
        if call.state is State.RINGING:
            cached = self._route_cache.get(call.call)
            early = cached.early if cached is not None else await self._early_of(call, rings)
            if rings is not None:
                self._delivery.catch_up(rings, early)
        return self._route_cache.update(call, revision, time.monotonic(), early)

    async def _early_of(self, call: Call, rings: Address | None) -> list[MailboxMessage]:
        """Read the early media of a call that is not cached from the mailbox of a ringing device.

        The mailbox of the device that begins to ring is the last choice: it has them only if the device rang before.
        """
        devices = sorted(call.ringing, key=lambda at: rings is not None and at.session == rings.session)
        if not devices:
            return []
        name = f'"callId":{json.dumps(call.call)}'.encode()
        early: dict[object, MailboxMessage] = {}
        for message in await self._read_mailbox(devices[0].session):
            if message.event in RELAYED and name in message.payload:
                relay = stamped(message.payload)
                copy_of = (relay.session, relay.number) if relay is not None else len(early)
                if relay is not None:
                    self._sequence_tracker.mark_passed_on((relay.session, encode(call.call)), relay.number)
                body = message.payload[: message.payload.rindex(b',"seq":')] + b"}"
                early.setdefault(copy_of, MailboxMessage(message.event, body))
        return list(early.values())

    # --- relays ---------------------------------------------------------------------------------------------------

    async def _process_relay(self, relay: QueuedRelay) -> None:
        """Pass on or refuse one relay. Raises :class:`Unavailable` for one that has to be retransmitted."""
        key, receipt = (relay.session, relay.call), relay.receipt
        self.processed += 1
        self._sequence_tracker.report_progress(key, receipt)
        check = self._sequence_tracker.check(key, receipt)
        if check is not SequenceCheck.NEXT and check is not SequenceCheck.REPEAT:
            return
        try:
            if relay.payload:
                await self._decide(relay, first=check is SequenceCheck.NEXT)
        except Unavailable:
            self._sequence_tracker.request_retransmission(key, receipt)
            raise
        except SignallingError as error:
            self._delivery.refuse(relay.call, relay.kind, relay.reply, error)
        except Exception:
            log.exception("relay failed", call=relay.call)
            self._delivery.refuse(relay.call, relay.kind, relay.reply, Unavailable())
        self._sequence_tracker.acknowledge(key, receipt)

    async def _decide(self, relay: QueuedRelay, *, first: bool) -> None:
        """Pass on a relay as the table decides. Raises the refusal."""
        call, user, session, to, kind = relay[:5]
        cached = self._route_cache.get(call)
        routable = cached is not None and _is_routable(cached, relay)
        if cached is None or not routable or cached.fresh_until <= time.monotonic():
            cached = await self._read(call, cached=cached if routable else None)
            # The mailboxes of a ringing call that is new here may have shown that this relay was passed on.
            check = self._sequence_tracker.check((session, call), relay.receipt)
            if check is SequenceCheck.DUPLICATE:
                return
            first = check is SequenceCheck.NEXT
        if cached is None or encode(cached.call.peer_of(decode(user))) != to:
            raise ReceiverNotFound
        # The gateway is not in the subject; it is needed only where an answer accepts, from a ringing device.
        at = next(
            (a for a in cached.call.ringing if a.session == session), Address(session=session, gateway="")
        )
        # The cause is the same when the relay is retransmitted: an acceptance that was not delivered is redelivered.
        event = CallInput(RELAY_KINDS[Event(kind)], f"{session} {relay.receipt.number}", decode(user), at)
        try:
            outcome = machine.step(cached.call, event, 0)
        except CallNotFound:
            raise ReceiverNotFound from None
        if outcome.call is not cached.call or event.cause == cached.call.caused_by:
            outcome = await self._answer(cached.call.call, event)
            cached = self._route_cache.get(call) or cached
        self._delivery.pass_on(cached, outcome.relay_to, kind, relay.reply, relay.payload, first=first)

    async def _read(self, call: str, cached: CachedCall | None) -> CachedCall | None:
        """Read and cache a call; return it as it is ``cached`` while it cannot be read.

        Raises :class:`Unavailable` for one that can be neither read nor is cached.
        """
        try:
            found = await self._store.call(decode(call), fresh=False) if cached is not None else None
            if found is None:
                found = await self._store.call(decode(call))
        except Unavailable:
            if cached is None:
                raise
            if not cached.read_failed:
                log.warning("call not read: using its cached state", call=call)
            cached.read_failed = True
            self._route_cache.extend(cached, time.monotonic())
            return cached
        return await self._update_cache(found.call, found.revision) if found is not None else None

    async def _answer(self, call: str, event: CallInput) -> Outcome:
        """Accept a ringing call by an answer."""
        assert event.kind is InputKind.ANSWER and event.at is not None
        if not event.at.gateway:
            raise ReceiverNotFound
        if traces.active is None:
            return await self._accept(call, event)
        with traces.active.happening(Event.ANSWER, call):  # which accepts the call
            return await self._accept(call, event)


def _is_routable(cached: CachedCall, relay: QueuedRelay) -> bool:
    """Return True if the cached state of the call determines the targets of the relay."""
    if relay.kind == Event.ANSWER and cached.call.state is not State.ACCEPTED:
        return False
    return bool(targets_of(cached.call, relay.user, relay.session, relay.to))
