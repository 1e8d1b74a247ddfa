"""Sessions that come here from another socket: what they missed, and what is still on its way to where they were.

Until call control has learnt the new address of a session, it sends to the old one. So for a while everything that is
sent to the session, at whichever gateway, is listened to here; and until the client has got what it missed, what
comes is held, so that it gets all of it in order and once.
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

HELD_MAX = 1_024
SEEN_MAX = 4_096
ELSEWHERE_SECONDS = 8.0
"""How long a callcore may go on sending to an address that it should know is old."""
SETTLE_SECONDS = 0.03
"""How long a message may take, after it was handed out, to where the stream takes it from, in order."""
MARGIN_MS = 10_000
"""Clocks of hosts may differ by less than that."""
SKEW_MS = 1_000
"""The same for hosts whose clocks are kept by NTP, where nothing else tells what a client has heard."""
DRAIN_SECONDS = 2.0
READ_BACKOFF = Backoff(first=0.5, longest=0.5, jitter=0.8)
PATIENCE_SECONDS = 8.0
"""How long it is tried to read a mailbox; a client whose cannot be read then is to come again, with the same token."""


HeardOf = Callable[[str, int], Awaitable[dict[str, int] | None]]
"""(session, ``seq``) → the relays that its client had got then, see :meth:`.relay_handover.Handover.heard_of`."""


class Arrival(NamedTuple):
    """Something for a session of this gateway, as it came. ``reply``: where its receipt goes."""

    event: str
    payload: bytes
    reply: str


class Missed(NamedTuple):
    """What a session was sent. ``complete``: ``missed`` is all that the client has not got.

    ``before``: older letters, which it has got. ``overtaken``: turns of calls up to this ``seq`` are told again.
    ``untold``: the client is still to hear of a call that rings. ``left_out``: letters that it is not to get.
    ``since``: the ``seq`` that it has got, 0 if it does not tell. ``heard``: sending session → number of the last relay
    that it has got, as far as a gateway says so.
    """

    before: list[MailboxMessage]
    missed: list[MailboxMessage]
    complete: bool
    overtaken: int = 0
    untold: bool = False
    left_out: tuple[MailboxMessage, ...] = ()
    since: int = 0
    heard: dict[str, int] | None = None


class ResumingSession:
    """One session that comes here. ``direct``: whether what is sent to this gateway's own address counts."""

    def __init__(self, session: str, *, direct: bool) -> None:
        self.session = session
        self.direct = direct
        self.held: list[Arrival] | None = []
        self.overflown = False
        self._seen: dict[int, None] = {}
        self.elsewhere: Subscription | None = None

    def hold(self, arrival: Arrival) -> None:
        """Keep it until the client has got what came before it."""
        assert self.held is not None
        if len(self.held) < HELD_MAX:
            self.held.append(arrival)
        else:
            self.overflown = True

    def first(self, payload: bytes) -> bool:
        """Whether this message has not been seen before; from now on it has."""
        seq = seq_of(payload)
        if seq in self._seen:
            return False
        while len(self._seen) >= SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[seq] = None
        return True


class ResumingSessions:
    """The sessions that are coming here. ``take``: what becomes of a message sent to the old address of one."""

    def __init__(self, bus: Bus, heard_of: HeardOf) -> None:
        self._bus = bus
        self._heard_of = heard_of
        self._reach = MailboxReach(bus)
        self._running: dict[str, ResumingSession] = {}
        self.get: Callable[[str], ResumingSession | None] = self._running.get
        """The recovery of a session, while there is one."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._running)

    async def begin(self, session: str, take: DirectHandler, *, elsewhere: bool) -> ResumingSession:
        """From now on hold what comes for the session. ``elsewhere``: also what goes to its old address.

        Raises :class:`Unavailable`.
        """
        old = self._running.pop(session, None)
        recovery = self._running[session] = ResumingSession(session, direct=not elsewhere)
        if old is not None:
            await self._unsubscribe(old)
        if elsewhere:
            try:
                recovery.elsewhere = await self._bus.subscribe_direct(subjects.mailbox(session), take)
                await self._bus.flush()
            except (Unavailable, NatsError) as error:
                self.abandon(recovery)
                raise Unavailable from error
            await asyncio.sleep(SETTLE_SECONDS)
        return recovery

    async def look_from_ring(self, recovery: ResumingSession, call: str, created_at: int) -> Missed:
        """Return all that a session was sent of a call that rings, for a client that knows nothing of it.

        ``created_at``: when the call was placed (ms). What cannot be read is left to call control, which tells the call
        and its early media again.
        """
        try:
            letters = await self._read(recovery, max(1, created_at - MARGIN_MS))
        except Unavailable as error:
            log.warning("mailbox not read", session=recovery.session, reason=error.message)
            return Missed([], [], complete=False, untold=True)
        turns = (n for n, letter in enumerate(letters) if letter.event in RINGING and letter.call == call)
        first = next(turns, len(letters))
        told = _once(letters[first:], 0)
        return Missed([], told, complete=False, untold=True, left_out=tuple(letters[:first]))

    async def look(
        self,
        recovery: ResumingSession,
        *,
        last_seq: int | None,
        lost_at: int | None,
        since: int,
        busy: bool = True,
    ) -> Missed:
        """What a session has missed: after ``last_seq``; or, of a client that does not tell, since ``lost_at`` (ms).

        ``since``: when the session began (ms). ``busy``: a call holds its user. Raises :class:`Unavailable` if nothing
        can be read for a client that could be told what it missed.
        """
        if last_seq is None and lost_at is None:
            return Missed([], [], complete=False)
        after = last_seq if last_seq is not None else (lost_at or 0) * 1000
        after_ms = min(after // 1000, now_ms())
        try:
            # What a client is told of "everything" is only known of a stream that stores what is sent.
            letters = await self._read(recovery, max(1, after_ms - MARGIN_MS), settled=last_seq is not None)
            at = next((n for n, letter in enumerate(letters) if letter.seq == after), None)
            # That the last letter it has got is there says nothing: turns are told again, also into a new stream.
            complete = (
                last_seq is not None
                and len(letters) < READ_MAX
                and not mailbox.crowded(letters, after)
                and await self._reach.covers(max(after_ms, since))
            )
            shows = (
                complete
                and not mailbox.crowded(letters)
                and await self._reach.covers(max(after_ms - MARGIN_MS, since))
            )
            heard_relays = None
            if last_seq is not None and busy and not shows:
                # Gateways send relays of the last seconds again when NATS was away; this mailbox does not show all of
                # those that the client has got. It shows enough once it has a later one.
                heard_relays = await self._heard_of(recovery.session, last_seq)
                complete = complete and (
                    heard_relays is not None
                    or any(one.event in RELAYED and one.seq <= after for one in letters)
                )
        except Unavailable as error:
            log.warning("mailbox not read", session=recovery.session, reason=error.message)
            if last_seq is not None:
                raise
            return Missed([], [], complete=False)
        # Turns are told again for longer than the mailbox is read back: whatever is older than that has been heard. A
        # mailbox that is newer does not show which of the last ones were; then clocks are trusted further.
        margin_ms = MARGIN_MS if shows else SKEW_MS
        heard = max(0, last_seq - margin_ms * 1000) if last_seq is not None else 0
        if at is not None and complete:
            before, later = letters[: at + 1], _once(letters, at + 1)
        else:
            first = next((n for n, letter in enumerate(letters) if letter.seq > after), len(letters))
            before, later = letters[:first], _once(letters, first)
        missed = [letter for letter in later if _is_news(letter, heard)]
        overtaken = heard
        if not complete:
            missed = [letter for letter in missed if letter.seq > after]  # the others were told again
            if last_seq is not None:
                # A client that is told that it missed something hears from call control what has become of its call.
                before = [letter for letter in before if letter.event in RELAYED]
                overtaken = after
        return Missed(before, missed, complete, overtaken=overtaken, since=last_seq or 0, heard=heard_relays)

    async def _read(
        self, recovery: ResumingSession, since_ms: int, *, settled: bool = False
    ) -> list[MailboxMessage]:
        """Return the mailbox, up to now at least, in a few tries. Raises :class:`Unavailable`.

        ``settled``: only once the stream has stored what is sent to it now, also if nothing goes to an old address.
        """
        settled = settled or recovery.elsewhere is not None
        session, until = recovery.session, time.monotonic() + PATIENCE_SECONDS
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
                await asyncio.sleep(READ_BACKOFF.seconds(0))

    def finish(self, recovery: ResumingSession) -> None:
        """The client has got what it missed, and what was held: from now on it hears everything as it comes."""
        recovery.held = None
        if recovery.elsewhere is None:
            self._forget(recovery)
            return
        task = asyncio.create_task(self._listen_on(recovery), name=f"recovery {recovery.session}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abandon(self, recovery: ResumingSession) -> None:
        """The client is gone again."""
        self._forget(recovery)
        task = asyncio.create_task(self._unsubscribe(recovery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Listen to nothing any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen_on(self, recovery: ResumingSession) -> None:
        await asyncio.sleep(ELSEWHERE_SECONDS)
        # Nothing goes to the old address any more. Both ways bring the same for a moment, each message counts once,
        # so that none falls between the two.
        recovery.direct = True
        await self._unsubscribe(recovery)
        await asyncio.sleep(DRAIN_SECONDS)
        self._forget(recovery)

    async def _unsubscribe(self, recovery: ResumingSession) -> None:
        elsewhere, recovery.elsewhere = recovery.elsewhere, None
        if elsewhere is None:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await drain(elsewhere)
        except (TimeoutError, NatsError) as error:
            log.warning("not unsubscribed in order", session=recovery.session, error=type(error).__name__)

    def _forget(self, recovery: ResumingSession) -> None:
        if self._running.get(recovery.session) is recovery:
            del self._running[recovery.session]


def joined_seq(last_seq: int | None, missed: list[MailboxMessage]) -> int:
    """The ``seq`` of ``user:joined``: after what the client has got, before what it gets now."""
    base = min(last_seq, now_seq()) + 1 if last_seq is not None else now_seq() - MARGIN_MS * 1000
    return min(base, missed[0].seq - 1) if missed else base


def _is_news(letter: MailboxMessage, heard: int) -> bool:
    """Return whether the client may not have heard it. Turns up to ``heard`` are there because they were told again.

    Relays are numbered, so the socket knows which it has had.
    """
    return letter.event in RELAYED or letter.seq > heard


def _once(letters: list[MailboxMessage], start: int) -> list[MailboxMessage]:
    """Return the letters from ``start`` on, each relay once and those of one sender in their order.

    A relay is there twice because a callcore died between the two, or behind later ones because it was lost at first.
    """
    seen: set[tuple[str, int]] = set()
    once: list[MailboxMessage] = []
    places: dict[str, list[tuple[int, int]]] = {}
    for n, letter in enumerate(letters):
        if letter.event in RELAYED and (relay := stamped(letter.payload)) is not None:
            if (relay.session, relay.number) in seen:
                continue
            seen.add((relay.session, relay.number))
            if n >= start:
                places.setdefault(relay.session, []).append((relay.number, len(once)))
        if n >= start:
            once.append(letter)
    for sent in places.values():
        in_order = [once[place] for _, place in sorted(sent)]
        for (_, place), letter in zip(sent, in_order, strict=True):
            once[place] = letter
    return once
