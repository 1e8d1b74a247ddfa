"""Route offers, answers and candidates from one party of a call to the other, in order and without a read.

Each call has one owner (rendezvous hashing at the gateways), which caches its last announced state and the targets of
each session's relays. A relay with a cached target is passed on at once, on the fast path. All others take the slow
path (:mod:`services.callcore.relay.slow_path`).

A relay that cannot be passed on now is dropped without a reply: its gateway keeps it, and retransmits it.
"""

import asyncio
import time
from collections.abc import Callable

import nats.errors
from nats.aio.subscription import Subscription

from services.callcore.relay.ack_batcher import AckBatcher
from services.callcore.relay.delivery import RelayDelivery
from services.callcore.relay.route_cache import CachedCall, Route, RouteCache, targets_of
from services.callcore.relay.sequence_tracker import Key, SequenceCheck, SequenceTracker
from services.callcore.relay.slow_path import QueuedRelay, SlowPath
from services.callcore.state.model import Address, Call, State
from services.callcore.store import Found
from shared import subjects
from shared.contracts.call_records import StateAnnouncement
from shared.contracts.client import Event
from shared.contracts.relays import apart, without_first
from shared.errors import RateLimited, Unavailable
from shared.nats.compat.client import drain
from shared.nats.connection import Bus
from shared.observability import logs
from shared.subjects import ReceiptSubject, receipt_of

log = logs.get(__name__)


class RelayRouter:
    """Receives the relays and announcements of this instance.

    ``owner_of``: returns the owner of a call id, ``None`` if no instance is known.
    """

    def __init__(
        self,
        bus: Bus,
        instance: str,
        owner_of: Callable[[str], str | None],
        route_cache: RouteCache,
        sequence_tracker: SequenceTracker,
        delivery: RelayDelivery,
        slow_path: SlowPath,
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._owner_of = owner_of
        self._route_cache = route_cache
        self._sequence_tracker = sequence_tracker
        self._delivery = delivery
        self._slow_path = slow_path
        self._ack_batcher = AckBatcher(bus, sequence_tracker, instance)
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribe to the relays of this instance."""
        self._ack_batcher.start()
        self._subscription = await self._bus.subscribe_direct(
            subjects.relay_all(self._instance), self._on_message
        )

    async def stop(self, timeout: float) -> None:
        """Unsubscribe, and process what was received; ``timeout`` seconds at most for each step."""
        if self._subscription is not None:
            try:
                async with asyncio.timeout(timeout):
                    await drain(self._subscription)
            except (TimeoutError, nats.errors.Error) as error:
                log.warning("relays not drained", error=str(error) or type(error).__name__)
        await self._slow_path.stop(timeout)
        await self._ack_batcher.stop()

    # --- states ---------------------------------------------------------------------------------------------------

    def announce(
        self, call: Call, revision: int, *, born: bool = False, rings: Address | None = None
    ) -> None:
        """Announce a state of a call to its owner: see :class:`services.callcore.notify.notifier.Announce`.

        If this instance is the owner, the state is cached before this returns.
        """
        owner = self._owner_of(call.call)
        if owner == self._instance:
            self._on_announcement(call, revision, born, rings)
        elif owner is not None:
            announcement = StateAnnouncement(call=call, revision=revision, born=born, rings=rings)
            self._bus.publish(subjects.relay_state(owner, call.call), announcement.dump())

    def cached_call(self, call: str) -> Found | None:
        """Return a call as it is cached, to be confirmed by compare-and-set; ``None`` for an unknown one."""
        cached = self._route_cache.get(call)
        return Found(cached.call, cached.revision) if cached is not None else None

    def _on_announcement(self, call: Call, revision: int, born: bool, rings: Address | None) -> None:
        if not self._slow_path.has_queue(call.call) and self._update_now(call, revision, born):
            return
        self._slow_path.enqueue(
            call.call, StateAnnouncement(call=call, revision=revision, born=born, rings=rings)
        )

    def _update_now(self, call: Call, revision: int, born: bool) -> bool:
        """Cache a state. Return False for one that needs early media to be read or sent first."""
        if call.state is State.RINGING and not born:
            return False
        self._route_cache.update(call, revision, time.monotonic(), [])
        return True

    # --- relays -----------------------------------------------------------------------------------------------------

    def _on_message(self, subject: str, reply: str, payload: bytes, _head: bytes = b"") -> None:
        prefix, _, kind = subject.rpartition(".")
        route = self._route_cache.routes.get(prefix) or self._open_route(prefix)
        if route is not None and route.cached.fresh_until > time.monotonic():
            self._pass_on(route.cached, route.targets, kind, route.key, reply, receipt_of(reply), payload)
        elif kind == subjects.STATE:
            announced = StateAnnouncement.model_validate_json(payload)
            self._on_announcement(announced.call, announced.revision, announced.born, announced.rings)
        else:
            for its_reply, relay in apart(reply, payload):
                self._on_unrouted(prefix, kind, its_reply, relay)

    def _open_route(self, prefix: str) -> Route | None:
        """Open the route of relays with this prefix, if their call is accepted and has no queue."""
        _, _, token, user, session, to = prefix.split(".")
        cached = self._route_cache.get(token)
        if cached is None or cached.call.state is not State.ACCEPTED or self._slow_path.has_queue(token):
            return None
        targets = targets_of(cached.call, user, session, to)
        if not targets:
            return None
        return self._route_cache.open_route(prefix, Route(cached, (session, token), targets))

    def _on_unrouted(self, prefix: str, kind: str, reply: str, payload: bytes) -> None:
        """Pass on a relay of a ringing call, or queue it on the slow path."""
        _, _, token, user, session, to = prefix.split(".")
        receipt = receipt_of(reply)
        if kind != Event.ANSWER and not self._slow_path.has_queue(token):
            cached = self._route_cache.get(token)
            if cached is not None and cached.fresh_until > time.monotonic():
                targets = targets_of(cached.call, user, session, to)
                if targets:
                    self._pass_on(cached, targets, kind, (session, token), reply, receipt, payload)
                    return
        self._slow_path.enqueue(token, QueuedRelay(token, user, session, to, kind, reply, receipt, payload))

    def _pass_on(
        self,
        cached: CachedCall,
        targets: tuple[Address, ...],
        kind: str,
        key: Key,
        reply: str,
        receipt: ReceiptSubject,
        payload: bytes,
    ) -> None:
        """Pass on the relays of one message if their sequence numbers are next."""
        check = self._sequence_tracker.check(key, receipt)
        if check is not SequenceCheck.NEXT and check is not SequenceCheck.REPEAT:
            return
        if (
            receipt.more
            and check is SequenceCheck.NEXT
            and (passed_on := self._sequence_tracker.count_passed_on(key, receipt))
        ):
            reply, payload = without_first(reply, payload, passed_on)
        try:
            if payload:
                self._delivery.pass_on(
                    cached, targets, kind, reply, payload, first=check is SequenceCheck.NEXT
                )
        except RateLimited as error:
            try:
                self._delivery.refuse(key[1], kind, reply, error)
            except Unavailable:
                return
        except Unavailable:
            return
        self._sequence_tracker.acknowledge(key, receipt)
