"""Resume sessions: read what their clients missed, and receive messages that still go to their old sockets.

Until callcore knows the new address of a session, it sends to the old one. So this gateway subscribes to all messages
for the session, at any gateway, for some seconds. Messages are buffered until the client was sent what it missed, so
that it gets all of them once and in order.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from services.gateway.protocol.ring_time import RINGING
from shared import subjects
from shared.clock import now_ms, now_seq
from shared.contracts.client import RELAYED
from shared.contracts.relays import stamped
from shared.errors import Unavailable
from shared.messaging import mailbox
from shared.messaging.mailbox import READ_MAX, MailboxMessage, MailboxReach, NotStored, seq_of
from shared.nats.backoff import Backoff
from shared.nats.compat.client import drain
from shared.nats.connection import Bus
from shared.nats.fast_parser import DirectHandler
from shared.observability import logs

log = logs.get(__name__)

BUFFER_MAX = 1_024
SEEN_MAX = 4_096
OLD_ADDRESS_SECONDS = 8.0
"""Time in which callcore may still send to the old address of a session."""
SETTLE_SECONDS = 0.03
"""Time from the delivery of a message to its subscribers until the stream has it."""
MARGIN_MS = 10_000
"""Clocks of hosts differ by less than that."""
SKEW_MS = 1_000
"""The same for hosts with NTP; used if the mailbox does not show what a client has received."""
DRAIN_SECONDS = 2.0
READ_BACKOFF = Backoff(first=0.5, longest=0.5, jitter=0.8)
PATIENCE_SECONDS = 8.0
"""Time in which reading a mailbox is retried. Then the client is refused, and may resume with the same token."""


RelaysReceived = Callable[[str, int], Awaitable[dict[str, int] | None]]
"""(session, ``seq``) → the relays that its client had received, see :meth:`.RelayHandover.relays_received`."""


class DeliveredMessage(NamedTuple):
    """A message for a session of this gateway. ``reply``: the subject of its receipt."""

    event: str
    payload: bytes
    reply: str


class Missed(NamedTuple):
    """Mailbox messages of a session. ``complete``: True if ``missed`` is all that the client has not received.

    ``before``: older messages, which it has received. ``redelivered_upto``: call events up to this ``seq`` are
    redelivered ones. ``call_pending``: True if a ringing call is still to be sent to the client. ``left_out``: messages
    that it is not sent. ``since``: the last ``seq`` that it has received, 0 if it has not named one. ``received``:
    sending session → number of the last relay that it has received; ``None`` if no gateway was asked or knows.
    """

    before: list[MailboxMessage]
    missed: list[MailboxMessage]
    complete: bool
    redelivered_upto: int = 0
    call_pending: bool = False
    left_out: tuple[MailboxMessage, ...] = ()
    since: int = 0
    received: dict[str, int] | None = None


class ResumingSession:
    """Buffers messages of one resuming session.

    ``direct``: True if messages to this gateway's own address are handled; the others come by the old address, too.
    """

    def __init__(self, session: str, *, direct: bool) -> None:
        self.session = session
        self.direct = direct
        self.buffer: list[DeliveredMessage] | None = []
        """Messages until the client was sent what it missed; then ``None``."""
        self.overflowed = False
        self._seen: dict[int, None] = {}
        self.old_address: Subscription | None = None

    def keep(self, delivered: DeliveredMessage) -> None:
        """Buffer a message until the client was sent earlier ones."""
        assert self.buffer is not None
        if len(self.buffer) < BUFFER_MAX:
            self.buffer.append(delivered)
        else:
            self.overflowed = True

    def first_time(self, payload: bytes) -> bool:
        """Record a message. Return False if it has been recorded before."""
        seq = seq_of(payload)
        if seq in self._seen:
            return False
        while len(self._seen) >= SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[seq] = None
        return True


class ResumingSessions:
    """Resumes sessions.

    ``read_backoff``, ``patience``: pauses between tries to read a mailbox, and the seconds after which it is given up.
    """

    def __init__(
        self,
        bus: Bus,
        relays_received: RelaysReceived,
        *,
        read_backoff: Backoff = READ_BACKOFF,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._read_backoff = read_backoff
        self._patience = patience
        self._bus = bus
        self._relays_received = relays_received
        self._reach = MailboxReach(bus)
        self._running: dict[str, ResumingSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of resuming sessions."""
        return len(self._running)

    def get(self, session: str) -> ResumingSession | None:
        """Return a session if it is resuming."""
        return self._running.get(session)

    async def begin(self, session: str, handler: DirectHandler, *, old_address: bool) -> ResumingSession:
        """Begin to buffer messages for a session. Raises :class:`Unavailable`.

        ``old_address``: True if messages to its old address are to be passed to ``handler``.
        """
        old = self._running.pop(session, None)
        resume = self._running[session] = ResumingSession(session, direct=not old_address)
        if old is not None:
            await self._unsubscribe(old)
        if old_address:
            try:
                resume.old_address = await self._bus.subscribe_direct(subjects.mailbox(session), handler)
                await self._bus.flush()
            except (Unavailable, NatsError) as error:
                self.abandon(resume)
                raise Unavailable from error
            await asyncio.sleep(SETTLE_SECONDS)
        return resume

    async def read_since_ring(self, resume: ResumingSession, call: str, created_at: int) -> Missed:
        """Return the messages of a ringing call, for a client that was not sent any of them.

        ``created_at``: when the call was set up (ms). If the mailbox cannot be read, callcore sends the call and its
        early media again.
        """
        try:
            messages = await self._read(resume, max(1, created_at - MARGIN_MS))
        except Unavailable as error:
            log.warning("mailbox not read", session=resume.session, reason=error.message)
            return Missed([], [], complete=False, call_pending=True)
        rings = (n for n, message in enumerate(messages) if message.event in RINGING and message.call == call)
        first = next(rings, len(messages))
        missed = _once(messages[first:], 0)
        return Missed([], missed, complete=False, call_pending=True, left_out=tuple(messages[:first]))

    async def read_missed(
        self,
        resume: ResumingSession,
        *,
        last_seq: int | None,
        lost_at: int | None,
        since: int,
        busy: bool = True,
    ) -> Missed:
        """Return what a client has missed after ``last_seq``; without that, since its socket was ``lost_at`` (ms).

        ``since``: when the session began (ms). ``busy``: True if its user is in a call. Raises :class:`Unavailable` if
        the mailbox cannot be read for a client that has named a ``last_seq``.
        """
        if last_seq is None and lost_at is None:
            return Missed([], [], complete=False)
        after = last_seq if last_seq is not None else (lost_at or 0) * 1000
        after_ms = min(after // 1000, now_ms())
        try:
            # A resume can be complete only if the stream has stored what was sent until now.
            messages = await self._read(resume, max(1, after_ms - MARGIN_MS), settled=last_seq is not None)
            at = next((n for n, message in enumerate(messages) if message.seq == after), None)
            # The last message it has received proves nothing: callcore redelivers call events, also into a new stream.
            complete = (
                last_seq is not None
                and len(messages) < READ_MAX
                and not mailbox.crowded(messages, after)
                and await self._reach.covers(max(after_ms, since))
            )
            shows = (
                complete
                and not mailbox.crowded(messages)
                and await self._reach.covers(max(after_ms - MARGIN_MS, since))
            )
            received = None
            if last_seq is not None and busy and not shows:
                # Gateways retransmit relays of the last seconds after NATS was away. This mailbox does not show all of
                # those that the client has received, unless it has a later one.
                received = await self._relays_received(resume.session, last_seq)
                complete = complete and (
                    received is not None or any(one.event in RELAYED and one.seq <= after for one in messages)
                )
        except Unavailable as error:
            log.warning("mailbox not read", session=resume.session, reason=error.message)
            if last_seq is not None:
                raise
            return Missed([], [], complete=False)
        # Call events are redelivered for longer than the mailbox is read back; the client has received older ones. A
        # mailbox that is newer does not show which of the last ones it has; then only NTP's skew is allowed for.
        margin_ms = MARGIN_MS if shows else SKEW_MS
        received_upto = max(0, last_seq - margin_ms * 1000) if last_seq is not None else 0
        if at is not None and complete:
            before, later = messages[: at + 1], _once(messages, at + 1)
        else:
            first = next((n for n, message in enumerate(messages) if message.seq > after), len(messages))
            before, later = messages[:first], _once(messages, first)
        missed = [message for message in later if _is_new(message, received_upto)]
        redelivered_upto = received_upto
        if not complete:
            missed = [message for message in missed if message.seq > after]  # the others are redelivered
            if last_seq is not None:
                # Callcore sends the state of its call to a client whose resume is not complete.
                before = [message for message in before if message.event in RELAYED]
                redelivered_upto = after
        return Missed(
            before,
            missed,
            complete,
            redelivered_upto=redelivered_upto,
            since=last_seq or 0,
            received=received,
        )

    async def _read(
        self, resume: ResumingSession, since_ms: int, *, settled: bool = False
    ) -> list[MailboxMessage]:
        """Return the mailbox, with retries. Raises :class:`Unavailable`.

        ``settled``: True if the stream must have stored all that was sent until now, also without an old address.
        """
        settled = settled or resume.old_address is not None
        session, until = resume.session, time.monotonic() + self._patience
        while True:
            try:
                upto = mailbox.settle(self._bus, session) if settled else None
                return await mailbox.read(self._bus, session, since_ms=since_ms, upto=upto)
            except Unavailable as error:
                if isinstance(error, NotStored):
                    self._reach.lossy()
                if time.monotonic() > until:
                    raise
                log.info("mailbox not read yet", session=session)
                await asyncio.sleep(self._read_backoff.seconds(0))

    def finish(self, resume: ResumingSession) -> None:
        """End buffering, because the client was sent what it missed. The old address is kept for some seconds."""
        resume.buffer = None
        if resume.old_address is None:
            self._forget(resume)
            return
        task = asyncio.create_task(self._await_old_address(resume), name=f"resume {resume.session}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abandon(self, resume: ResumingSession) -> None:
        """End a resume whose client is gone."""
        self._forget(resume)
        task = asyncio.create_task(self._unsubscribe(resume))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _await_old_address(self, resume: ResumingSession) -> None:
        await asyncio.sleep(OLD_ADDRESS_SECONDS)
        # Callcore knows the new address by now. For a moment messages come by both, so that none is lost between them;
        # each is handled once.
        resume.direct = True
        await self._unsubscribe(resume)
        await asyncio.sleep(DRAIN_SECONDS)
        self._forget(resume)

    async def _unsubscribe(self, resume: ResumingSession) -> None:
        subscription, resume.old_address = resume.old_address, None
        if subscription is None:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await drain(subscription)
        except (TimeoutError, NatsError) as error:
            log.warning("subscription not drained", session=resume.session, error=type(error).__name__)

    def _forget(self, resume: ResumingSession) -> None:
        if self._running.get(resume.session) is resume:
            del self._running[resume.session]


def joined_seq(last_seq: int | None, missed: list[MailboxMessage]) -> int:
    """Return the ``seq`` of ``user:joined``: after what the client has received, before what it is sent next."""
    base = min(last_seq, now_seq()) + 1 if last_seq is not None else now_seq() - MARGIN_MS * 1000
    return min(base, missed[0].seq - 1) if missed else base


def _is_new(message: MailboxMessage, received_upto: int) -> bool:
    """Return True if the client may not have received a message. Call events up to ``received_upto`` are redelivered.

    Relays have numbers, by which the socket skips those that it has been sent.
    """
    return message.event in RELAYED or message.seq > received_upto


def _once(messages: list[MailboxMessage], start: int) -> list[MailboxMessage]:
    """Return the messages from ``start`` on, each relay once, and relays of one sender in order.

    A relay is there twice if a callcore died after the first, and after later ones if it was lost and retransmitted.
    """
    seen: set[tuple[str, int]] = set()
    once: list[MailboxMessage] = []
    places: dict[str, list[tuple[int, int]]] = {}
    for n, message in enumerate(messages):
        if message.event in RELAYED and (relay := stamped(message.payload)) is not None:
            if (relay.session, relay.number) in seen:
                continue
            seen.add((relay.session, relay.number))
            if n >= start:
                places.setdefault(relay.session, []).append((relay.number, len(once)))
        if n >= start:
            once.append(message)
    for sent in places.values():
        in_order = [once[place] for _, place in sorted(sent)]
        for (_, place), message in zip(sent, in_order, strict=True):
            once[place] = message
    return once
