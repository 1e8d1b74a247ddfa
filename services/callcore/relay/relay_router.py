"""Relays: offers, answers and candidates from one party to the other, in order, without reading anything.

Every call has a lane on the one instance in charge of it (rendezvous hashing at the gateways). A lane knows from
the last announced state where each session's relays go; such a relay is passed on at once. Whatever is not that
simple takes the long way (:mod:`services.callcore.relay.slow_path`).

What cannot be passed on now is dropped without a word: its gateway keeps it, and sends it again.
"""

import asyncio
import json
import time
from collections.abc import Callable

import nats.errors
from nats.aio.subscription import Subscription

from services.callcore.relay.ack_batcher import AckBatcher
from services.callcore.relay.route_cache import CachedCall, Route, RouteCache, targets_of
from services.callcore.relay.sequence_tracker import Key, SequenceCheck, SequenceTracker
from services.callcore.relay.slow_path import Accept, QueuedRelay, SlowPath, StateAnnouncement
from services.callcore.state.model import Address, Call, State
from services.callcore.store import Found, Store
from shared import subjects
from shared.contracts.client import Event
from shared.contracts.relays import apart, without_first
from shared.errors import RateLimited, SignallingError, Unavailable
from shared.messaging.mailbox import MailboxMessage, MailboxPublisher
from shared.nats.connection import Bus, drain
from shared.observability import logs
from shared.observability.limit_hits import LimitHits
from shared.subjects import ReceiptSubject, receipt_of
from shared.token_bucket import ByteRate, milliseconds

log = logs.get(__name__)

EARLY_MAX = 64
EARLY_MAX_BYTES = 256 * 1024


class RelayRouter:
    """All lanes of this instance. ``accept``: see :class:`SlowPath`.

    ``call_bytes``: what one side of a call may send; ``None`` for no limit.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        mailbox_publisher: MailboxPublisher,
        instance: str,
        owner: Callable[[str], str | None],
        call_bytes: ByteRate | None,
        hits: LimitHits,
    ) -> None:
        self._call_bytes = call_bytes
        self._hits = hits
        self._bus = bus
        self._mailbox_publisher = mailbox_publisher
        self._instance = instance
        self._owner = owner
        self._sequence_tracker = SequenceTracker()
        self._acknowledger = AckBatcher(bus, self._sequence_tracker, instance)
        self._known = RouteCache()
        self._long_way = SlowPath(
            bus, store, mailbox_publisher, self._known, self._sequence_tracker, self._pass_on, self._refuse
        )
        self._subscription: Subscription | None = None

    async def start(self, accept: Accept) -> None:
        """Take relays."""
        self._long_way.accept = accept
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
        await self._long_way.stop(timeout)
        await self._acknowledger.stop()

    @property
    def long_way(self) -> SlowPath:
        """What waits because its way is not plain."""
        return self._long_way

    def __len__(self) -> int:
        return len(self._known)

    # --- state ----------------------------------------------------------------------------------------------------

    def announce(
        self, call: Call, revision: int, *, born: bool = False, rings: Address | None = None
    ) -> None:
        """Tell the instance in charge of the call's relays what the call has become.

        Where that is this one, it takes effect at once: nothing that is sent because of it can have come before.
        """
        owner = self._owner(call.call)
        if owner == self._instance:
            self._on_state(call, revision, born, rings)
        elif owner is not None:
            told = StateAnnouncement(call=call, revision=revision, born=born, rings=rings)
            self._bus.publish(subjects.relay_state(owner, call.call), told.dump())

    def known(self, call: str) -> Found | None:
        """A call as this instance last heard of it: to be tried, for compare-and-set says whether it still is so."""
        lane = self._known.get(call)
        return Found(lane.call, lane.revision) if lane is not None else None

    def _on_state(self, call: Call, revision: int, born: bool, rings: Address | None) -> None:
        if not self._long_way.has_line(call.call) and self._learn_at_once(call, revision, born):
            return
        self._long_way.wait(
            call.call, StateAnnouncement(call=call, revision=revision, born=born, rings=rings)
        )

    def _learn_at_once(self, call: Call, revision: int, born: bool) -> bool:
        """Learn a state that needs nothing read or sent; whether it was such a one."""
        if call.state is State.RINGING and not born:
            return False
        self._known.learn(call, revision, time.monotonic(), [])
        return True

    # --- relays -----------------------------------------------------------------------------------------------------

    def _on_message(self, subject: str, reply: str, payload: bytes, _head: bytes = b"") -> None:
        begin, _, kind = subject.rpartition(".")
        route = self._known.route(begin) or self._open(begin)
        if route is not None and route.lane.warm_until > time.monotonic():
            self._at_once(route.lane, route.targets, kind, route.key, reply, receipt_of(reply), payload)
        elif kind == subjects.STATE:
            told = StateAnnouncement.model_validate_json(payload)
            self._on_state(told.call, told.revision, told.born, told.rings)
        else:
            for its_reply, line in apart(reply, payload):
                self._on_other(begin, kind, its_reply, line)

    def _open(self, begin: str) -> Route | None:
        """The route of relays whose subject begins so, if they are of an accepted call and nothing is in their way."""
        _, _, token, user, session, to = begin.split(".")
        lane = self._known.get(token)
        if lane is None or lane.call.state is not State.ACCEPTED or self._long_way.has_line(token):
            return None
        targets = targets_of(lane.call, user, session, to)
        return self._known.open(begin, Route(lane, (session, token), targets)) if targets else None

    def _on_other(self, begin: str, kind: str, reply: str, payload: bytes) -> None:
        """A relay that has no route: of a call that rings, or is not known."""
        _, _, token, user, session, to = begin.split(".")
        receipt = receipt_of(reply)
        if kind != Event.ANSWER and not self._long_way.has_line(token):
            lane = self._known.get(token)
            if lane is not None and lane.warm_until > time.monotonic():
                targets = targets_of(lane.call, user, session, to)
                if targets:
                    self._at_once(lane, targets, kind, (session, token), reply, receipt, payload)
                    return
        self._long_way.wait(token, QueuedRelay(token, user, session, to, kind, reply, receipt, payload))

    def _at_once(
        self,
        lane: CachedCall,
        targets: tuple[Address, ...],
        kind: str,
        key: Key,
        reply: str,
        receipt: ReceiptSubject,
        payload: bytes,
    ) -> None:
        """Pass a relay on whose way is plain, or several that came in one message, if it is their turn."""
        turn = self._sequence_tracker.turn(key, receipt)
        if turn is not SequenceCheck.ITS and turn is not SequenceCheck.AGAIN:
            return
        if receipt.more and turn is SequenceCheck.ITS and (over := self._sequence_tracker.over(key, receipt)):
            reply, payload = without_first(reply, payload, over)
        try:
            if payload:
                self._pass_on(lane, targets, kind, reply, payload, first=turn is SequenceCheck.ITS)
        except RateLimited as error:
            try:
                self._refuse(key[1], kind, reply, error)
            except Unavailable:
                return
        except Unavailable:
            return
        self._sequence_tracker.done(key, receipt)

    def _pass_on(
        self,
        lane: CachedCall,
        targets: tuple[Address, ...],
        kind: str,
        reply: str,
        payload: bytes,
        *,
        first: bool,
    ) -> None:
        """Deliver a relay. ``first``: that was not done before.

        Raises :class:`RateLimited`, :class:`Unavailable`.
        """
        call = lane.call
        early = first and call.state is State.RINGING and targets[0] != call.caller_at
        if early:
            size = len(payload)
            if len(lane.early) >= EARLY_MAX or lane.early_bytes + size > EARLY_MAX_BYTES:
                raise RateLimited("Too much sent before the call is accepted", retry_after_ms=1000)
        if first and (early or kind != Event.CANDIDATE):
            # Candidates of an accepted call come in bundles; gateways count those, and their bytes.
            self._charge(lane, targets, len(payload))
        reply += subjects.LETTER
        for at in targets:
            self._mailbox_publisher.deliver(at.gateway, at.session, kind, payload, reply)
        if early:
            lane.early.append(MailboxMessage(kind, payload))
            lane.early_bytes += size

    def _charge(self, lane: CachedCall, targets: tuple[Address, ...], size: int) -> None:
        """Charge a relay to the side that sends it, for each device it goes to. Raises :class:`RateLimited`."""
        if (rate := self._call_bytes) is None:
            return
        now, side = time.monotonic(), targets[0] != lane.call.caller_at
        full_at = rate.charge(lane.bytes_full_at[side], now, size * len(targets))
        if (wait := rate.wait(full_at, now)) > 0:
            self._hits.hit("rate_call_kb")
            text = f"Too much in one call: {rate.size // 1024} KiB at once"
            raise RateLimited(text, retry_after_ms=milliseconds(wait))
        lane.bytes_full_at[side] = full_at

    def _refuse(self, call: str, kind: str, reply: str, error: SignallingError) -> None:
        """Tell the sender. Raises :class:`Unavailable` if that is not possible now."""
        log.debug("relay refused", call=call, relayed=kind, code=error.code)
        self._bus.publish(reply, json.dumps({**error.to_wire(), "event": kind}).encode())
