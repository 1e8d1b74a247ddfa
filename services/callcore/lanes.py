"""Relays: offers, answers and candidates from one party to the other, in order, without reading anything.

Every call has a lane on the one instance in charge of it (rendezvous hashing at the gateways). A lane knows from
the last announced state where each session's relays go; such a relay is passed on at once. Whatever is not that
simple (a call this instance does not know, a session it does not expect, an answer that accepts) takes the long
way: the lane stops, one task reads the call and decides, and what arrives meanwhile waits in line behind it.

What cannot be passed on now is dropped without a word: its gateway keeps it, and sends it again.
"""

import asyncio
import json
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import nats.errors
from nats.aio.subscription import Subscription

from services.callcore import machine
from services.callcore.acks import Acknowledger
from services.callcore.ledger import Ledger, Turn
from services.callcore.model import RELAY_KINDS, Address, Call, Happening, Kind, Outcome, State
from services.callcore.store import Found, Store
from shared import logs, mailbox, subjects, traces
from shared.bus import Bus, drain
from shared.contracts.client import RELAYED, Event
from shared.contracts.relays import stamped
from shared.contracts.wire import Wire
from shared.errors import CallNotFound, RateLimited, ReceiverNotFound, SignallingError, Unavailable
from shared.ids import decode, encode, new_id
from shared.mailbox import Letter, Postman
from shared.subjects import Receipt

log = logs.get(__name__)

LANES_MAX = 50_000
WAITING_MAX = 256
WAITING_MAX_BYTES = 1024 * 1024
EARLY_MAX = 64
EARLY_MAX_BYTES = 256 * 1024
WARM_SECONDS = 5.0
"""How long a lane trusts what it knows; after that it reads the call once more, if it can be read."""

Accept = Callable[[str, Happening], Awaitable[Outcome]]


class Announcement(Wire):
    """``relay.<callcore>.<call>.-.-.-.state``: a call and its revision.

    ``born``: nobody can have sent anything yet. ``rings``: the device that has just begun to ring, and must catch up.
    """

    call: Call
    revision: int
    born: bool = False
    rings: Address | None = None


@dataclass(slots=True)
class Lane:
    """What an instance knows of one call. ``routes``: (user token, session, peer token) → where its relays go."""

    call: Call
    revision: int
    warm_until: float
    routes: dict[tuple[str, str, str], tuple[Address, ...]] = field(default_factory=dict)
    early: list[Letter] = field(default_factory=list)
    early_bytes: int = 0
    unread: bool = False
    """The call could not be read when it was time."""


class Relay(NamedTuple):
    """A relay as it came; users and the call are subject tokens. ``payload``: empty for one that is void."""

    call: str
    user: str
    session: str
    to: str
    kind: str
    reply: str
    receipt: Receipt
    payload: bytes


@dataclass(slots=True)
class Line:
    """Messages of one call that wait for the long way, in the order they came."""

    waiting: deque[Relay | Announcement] = field(default_factory=deque)
    size: int = 0


class Lanes:
    """All lanes of this instance. ``accept`` is the deed that an answer to a ringing call is."""

    def __init__(
        self, bus: Bus, store: Store, postman: Postman, instance: str, owner: Callable[[str], str | None]
    ) -> None:
        self._bus = bus
        self._store = store
        self._postman = postman
        self._instance = instance
        self._owner = owner
        self._ledger = Ledger()
        self._acknowledger = Acknowledger(bus, self._ledger, instance)
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._lines: dict[str, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.accept: Accept | None = None
        self._subscription: Subscription | None = None
        self.slow = 0
        """Relays that took the long way, and those dropped because too many of their call waited for it."""
        self.dropped = 0

    def depths(self) -> tuple[int, int, int]:
        """How many calls are known, how many have a line, and how many messages wait in lines."""
        lines = self._lines.values()
        return len(self._lanes), len(lines), sum(len(line.waiting) for line in lines)

    async def start(self) -> None:
        """Take relays."""
        self._acknowledger.start()
        self._subscription = await self._bus.subscribe_direct(
            subjects.relay_all(self._instance), self._on_message
        )

    async def stop(self, timeout: float) -> None:
        """Take no more, and finish what NATS has handed to this instance; ``timeout`` seconds at most for each."""
        if self._subscription is not None:
            try:
                async with asyncio.timeout(timeout):
                    await drain(self._subscription)
            except (TimeoutError, nats.errors.Error) as error:
                log.warning("relays not drained", error=str(error) or type(error).__name__)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        await self._acknowledger.stop()

    # --- state ----------------------------------------------------------------------------------------------------

    async def announce(
        self, call: Call, revision: int, *, born: bool = False, rings: Address | None = None
    ) -> None:
        """Tell the instance in charge of the call's relays what the call has become.

        Where that is this one, it takes effect at once: nothing that is sent because of it can have come before.
        """
        owner = self._owner(call.call)
        if owner is None:
            return
        told = Announcement(call=call, revision=revision, born=born, rings=rings)
        if owner == self._instance:
            self._on_state(call.call, told)
        else:
            self._bus.publish(subjects.relay_state(owner, call.call), told.dump())

    def known(self, call: str) -> Found | None:
        """A call as this instance last heard of it: to be tried, for compare-and-set says whether it still is so."""
        lane = self._lanes.get(call)
        return Found(lane.call, lane.revision) if lane is not None else None

    def _on_state(self, token: str, told: Announcement) -> None:
        line = self._lines.get(token)
        if line is not None or not self._learn_at_once(told):
            self._wait(token, line, told, 0)

    def _learn(self, call: Call, revision: int, early: list[Letter]) -> Lane | None:
        """Remember a state, unless a later one is known; forget the call when it has ended."""
        known = self._lanes.get(call.call)
        if known is not None and known.revision > revision:
            return known
        if call.state is State.ENDED:
            self._lanes.pop(call.call, None)
            return None
        lane = Lane(call, revision, time.monotonic() + WARM_SECONDS)
        if call.state is State.RINGING:
            lane.early = early
            lane.early_bytes = sum(len(letter.payload) for letter in early)
        self._lanes[call.call] = lane
        self._lanes.move_to_end(call.call)
        while len(self._lanes) > LANES_MAX:
            self._lanes.popitem(last=False)
        return lane

    def _learn_at_once(self, told: Announcement) -> bool:
        """Learn a state that needs nothing read or sent; whether it was such a one."""
        if told.call.state is State.RINGING and not told.born:
            return False
        self._learn(told.call, told.revision, [])
        return True

    async def _learn_slowly(self, call: Call, revision: int, rings: Address | None = None) -> Lane | None:
        """Learn a state of a call that may be new to this instance, and let the device that begins to ring catch up."""
        if call.state is not State.RINGING:
            return self._learn(call, revision, [])
        known = self._lanes.get(call.call)
        early = known.early if known is not None else await self._early_of(call, rings)
        if rings is not None:
            for letter in early:
                self._postman.deliver(rings.gateway, rings.session, letter.event, letter.payload)
        return self._learn(call, revision, early)

    async def _early_of(self, call: Call, rings: Address | None) -> list[Letter]:
        """The early media of a call that rang before this instance knew of it, from a ringing device's mailbox."""
        others = [at for at in call.ringing if rings is None or at.session != rings.session]
        if not others:
            return []
        name = f'"callId":{json.dumps(call.call)}'.encode()
        early: dict[object, Letter] = {}
        for letter in await mailbox.read(self._bus, others[0].session):
            if letter.event in RELAYED and name in letter.payload:
                relay = stamped(letter.payload)
                copy_of = (relay.session, relay.number) if relay is not None else len(early)
                if relay is not None:
                    self._ledger.known(encode(call.call), relay.session, relay.number)
                body = letter.payload[: letter.payload.rindex(b',"seq":')] + b"}"
                early.setdefault(copy_of, Letter(letter.event, body))
        return list(early.values())

    # --- relays -----------------------------------------------------------------------------------------------------

    def _on_message(self, subject: str, reply: str, payload: bytes, _head: bytes = b"") -> None:
        _, _, token, user, session, to, kind = subject.split(".")
        if kind == subjects.STATE:
            self._on_state(token, Announcement.model_validate_json(payload))
            return
        line = self._lines.get(token)
        relay = Relay(token, user, session, to, kind, reply, subjects.receipt_of(reply), payload)
        if line is None:
            lane = self._lanes.get(token)
            if lane is not None and lane.warm_until > time.monotonic():
                targets = self._route(lane, user, session, to, kind)
                if targets:
                    self._at_once(lane, targets, relay)
                    return
        elif len(line.waiting) >= WAITING_MAX or line.size + len(payload) > WAITING_MAX_BYTES:
            self.dropped += 1
            log.debug("too many relays wait", call=token)
            return
        self._wait(token, line, relay, len(payload))

    def _wait(self, token: str, line: Line | None, message: Relay | Announcement, size: int) -> None:
        """Put a message into the line of its call, which somebody works off."""
        if line is None:
            line = self._lines[token] = Line()
            task = asyncio.create_task(self._work_off(token, line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        line.waiting.append(message)
        line.size += size

    def _at_once(self, lane: Lane, targets: tuple[Address, ...], relay: Relay) -> None:
        """Pass a relay on whose way is plain, if it is its turn."""
        turn = self._ledger.turn(relay.call, relay.receipt)
        if turn is not Turn.ITS and turn is not Turn.AGAIN:
            return
        try:
            try:
                if relay.payload:
                    self._pass_on(lane, targets, relay, first=turn is Turn.ITS)
            except RateLimited as error:
                self._refuse(relay, error)
        except Unavailable:
            return
        self._ledger.done(relay.call, relay.receipt)

    def _route(self, lane: Lane, user: str, session: str, to: str, kind: str) -> tuple[Address, ...] | None:
        """Where a relay goes, if that is plain from the state the lane knows; ``None`` for the long way."""
        if kind == Event.ANSWER and lane.call.state is not State.ACCEPTED:
            return None
        key = (user, session, to)
        targets = lane.routes.get(key)
        if targets is None:
            targets = lane.routes[key] = _targets(lane.call, user, session, to)
        return targets

    def _pass_on(self, lane: Lane, targets: tuple[Address, ...], relay: Relay, *, first: bool) -> None:
        """Deliver a relay. ``first``: that was not done before.

        Raises :class:`RateLimited`, :class:`Unavailable`.
        """
        size = len(relay.payload)
        early = first and lane.call.state is State.RINGING and targets[0] != lane.call.caller_at
        if early and (len(lane.early) >= EARLY_MAX or lane.early_bytes + size > EARLY_MAX_BYTES):
            raise RateLimited("Too much sent before the call is accepted", retry_after_ms=1000)
        reply = relay.reply + subjects.LETTER
        for at in targets:
            self._postman.deliver(at.gateway, at.session, relay.kind, relay.payload, reply)
        if early:
            lane.early.append(Letter(relay.kind, relay.payload))
            lane.early_bytes += size

    # --- the long way ------------------------------------------------------------------------------------------------

    async def _work_off(self, token: str, line: Line) -> None:
        try:
            while line.waiting:
                message = line.waiting.popleft()
                try:
                    if isinstance(message, Announcement):
                        await self._learn_slowly(message.call, message.revision, message.rings)
                    else:
                        line.size -= len(message.payload)
                        await self._in_line(message)
                except Unavailable as error:
                    log.debug("not now", call=token, reason=error.message)
                except Exception:
                    log.exception("relay failed", call=token)
        finally:
            del self._lines[token]

    async def _in_line(self, relay: Relay) -> None:
        """One relay that took the long way. Raises :class:`Unavailable` for one that is to come again."""
        token, receipt = relay.call, relay.receipt
        self.slow += 1
        self._ledger.alive(token, receipt)
        turn = self._ledger.turn(token, receipt)
        if turn is not Turn.ITS and turn is not Turn.AGAIN:
            return
        try:
            if relay.payload:
                await self._decide(relay, first=turn is Turn.ITS)
        except Unavailable:
            self._ledger.missed(token, receipt)
            raise
        except SignallingError as error:
            self._refuse(relay, error)
        except Exception:
            log.exception("relay failed", call=token)
            self._refuse(relay, Unavailable())
        self._ledger.done(token, receipt)

    async def _decide(self, relay: Relay, *, first: bool) -> None:
        token, user, session, to, kind = relay[:5]
        lane = self._lanes.get(token)
        plain = lane is not None and self._route(lane, user, session, to, kind)
        if lane is None or not plain or lane.warm_until <= time.monotonic():
            lane = await self._read(token, known=lane if plain else None)
            # Of a ringing call that is new here, the mailboxes may have told that this one has been passed on.
            turn = self._ledger.turn(token, relay.receipt)
            if turn is Turn.OVER:
                return
            first = turn is Turn.ITS
        if lane is None or encode(lane.call.peer_of(decode(user))) != to:
            raise ReceiverNotFound
        # The gateway is not in the subject; it is only asked for where an answer accepts, from a ringing device.
        at = next(
            (a for a in lane.call.ringing if a.session == session), Address(session=session, gateway="")
        )
        event = Happening(RELAY_KINDS[Event(kind)], new_id(), decode(user), at)
        try:
            outcome = machine.step(lane.call, event, 0)
        except CallNotFound:
            raise ReceiverNotFound from None
        if outcome.call is not lane.call:
            outcome = await self._answer(lane.call.call, event)
            lane = self._lanes.get(token, lane)
        self._pass_on(lane, outcome.relay_to, relay, first=first)

    async def _read(self, token: str, known: Lane | None) -> Lane | None:
        """The lane of a call as it is stored, or as it is ``known`` while it cannot be read.

        Raises :class:`Unavailable` for one that can be neither.
        """
        try:
            found = await self._store.call(decode(token), fresh=False) if known is not None else None
            if found is None:
                found = await self._store.call(decode(token))
        except Unavailable:
            if known is None:
                raise
            if not known.unread:
                log.warning("call not read: going on with what is known of it", call=token)
            known.unread = True
            known.warm_until = time.monotonic() + WARM_SECONDS
            return known
        return await self._learn_slowly(found.call, found.revision) if found is not None else None

    async def _answer(self, call: str, event: Happening) -> Outcome:
        assert self.accept is not None and event.kind is Kind.ANSWER and event.at is not None
        if not event.at.gateway:
            raise ReceiverNotFound
        if traces.active is None:
            return await self.accept(call, event)
        with traces.active.happening(Event.ANSWER, call):  # which accepts the call
            return await self.accept(call, event)

    def _refuse(self, relay: Relay, error: SignallingError) -> None:
        """Tell the sender. Raises :class:`Unavailable` if that is not possible now."""
        log.debug("relay refused", call=relay.call, user=relay.user, relayed=relay.kind, code=error.code)
        told = {**error.to_wire(), "event": relay.kind}
        self._bus.publish(relay.reply, json.dumps(told).encode())


def _targets(call: Call, user: str, session: str, to: str) -> tuple[Address, ...]:
    """Where the relays of a session go by the table; empty where the table refuses or the peer is another."""
    name = decode(user)
    if encode(call.peer_of(name)) != to:
        return ()
    event = Happening(Kind.CANDIDATE, "", name, Address(session=session, gateway=""))
    try:
        return machine.step(call, event, 0).relay_to
    except SignallingError:
        return ()
