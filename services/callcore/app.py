"""Composition root of call control: what it consists of, in the order it starts. It stops in the opposite order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.callcore import metrics
from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.call_service import CallService
from services.callcore.calls.call_setup import CallSetup
from services.callcore.calls.reconciler import OVERDUE_MS, SECOND_CHECK_SECONDS, Reconciler
from services.callcore.calls.ring_limiter import RingLimiter, RingLimits
from services.callcore.handlers import Handlers
from services.callcore.notify.notifier import Notifier
from services.callcore.notify.redelivery import RedeliveryBuffer
from services.callcore.relay.delivery import RelayDelivery
from services.callcore.relay.relay_router import RelayRouter
from services.callcore.relay.route_cache import FRESH_SECONDS, RouteCache
from services.callcore.relay.sequence_tracker import SequenceTracker
from services.callcore.relay.slow_path import SlowPath
from services.callcore.settings import Settings
from services.callcore.state.model import Call, CallInput, Outcome
from services.callcore.store import Store
from shared import subjects
from shared.messaging import mailbox, rpc
from shared.messaging.event_log import EventLog
from shared.messaging.mailbox import MailboxMessage, MailboxPublisher
from shared.messaging.mailbox_marks import Marker
from shared.messaging.membership import Beacon, Membership
from shared.messaging.policy_client import PolicyClient
from shared.messaging.timers import Timers, cancel_deadline, set_deadline
from shared.nats import streams
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from shared.observability.limit_hits import LimitHits
from shared.observability.loop_lag import LoopLag
from shared.observability.metrics import registry_of, serve
from shared.service import health, process_metrics
from shared.service.runner import distribution_version
from shared.token_bucket import ByteRate

SERVICE = "callcore"
DRAIN_SECONDS = 3.0


@dataclass(frozen=True)
class Timing:
    """Durations that no operator has to set."""

    fresh_seconds: float = FRESH_SECONDS
    second_check_seconds: float = SECOND_CHECK_SECONDS
    overdue_ms: int = OVERDUE_MS


@asynccontextmanager
async def start(settings: Settings, instance: str, timing: Timing = Timing()) -> AsyncIterator[None]:
    """Run one instance of call control. Raises :class:`shared.errors.Unavailable` if NATS does not answer.

    ``base`` stops last: health and metrics are served until the work in ``work`` has stopped.
    """
    async with AsyncExitStack() as base, AsyncExitStack() as work:
        # NATS: the connection, the buckets and streams.
        bus = await Bus.connect(
            settings.nats_url, name=instance, inboxes=SERVICE, login=settings.nats_login()
        )
        base.push_async_callback(bus.close)
        storage = streams.StreamKeeper(bus, lambda: _storage(bus, settings))
        await storage.start()
        base.push_async_callback(storage.stop)
        calls, sessions = Bucket(bus, subjects.BUCKET_CALLS), Bucket(bus, subjects.BUCKET_SESSIONS)
        store = Store(calls, sessions)

        # The other instances, of which each owns a part of the calls.
        members = Membership(bus, SERVICE)
        await members.start()
        work.push_async_callback(members.stop)
        peers = rpc.RpcClient(bus, timeout=settings.request_timeout_seconds)

        def owner_of(id_: str) -> str | None:
            return members.owner(SERVICE, id_)

        call_owner = CallOwner(instance, owner_of, peers)

        # Relays. An answer that accepts a call is applied by the call service below.
        def accept(call: str, call_input: CallInput) -> Awaitable[Outcome]:
            return call_service.apply(call, call_input)

        def read_mailbox(session: str) -> Awaitable[list[MailboxMessage]]:
            return mailbox.read(bus, session)

        hits = LimitHits()
        mailbox_publisher = MailboxPublisher(bus)
        call_bytes = ByteRate.of_kib(settings.rate_call_kb) if settings.rate_limit else None
        route_cache = RouteCache(fresh_seconds=timing.fresh_seconds)
        sequence_tracker = SequenceTracker()
        delivery = RelayDelivery(bus, mailbox_publisher, call_bytes, hits)
        slow_path = SlowPath(store, read_mailbox, route_cache, sequence_tracker, delivery, accept)
        relay_router = RelayRouter(
            bus, instance, owner_of, route_cache, sequence_tracker, delivery, slow_path
        )

        # Notification of sessions, and of EVENTS.
        event_log = EventLog(bus)
        work.push_async_callback(event_log.drain, DRAIN_SECONDS)
        redelivery = RedeliveryBuffer(bus, mailbox_publisher)
        await redelivery.start()
        work.push_async_callback(redelivery.stop)
        notifier = Notifier(relay_router.announce, redelivery, event_log)

        # Calls.
        def set_ring_deadline(call: Call) -> asyncio.Future[None]:
            return set_deadline(bus, subjects.RING, call.call, call.expires_at)

        def cancel_ring_deadline(call: str) -> None:
            cancel_deadline(bus, subjects.RING, call)

        async def on_ring_deadline(call: str, _: bytes) -> None:
            await call_service.time_out(call)

        ring_limiter = RingLimiter(calls, _ring_limits(settings), hits)
        policy = PolicyClient(bus, settings.policy)
        call_service = CallService(
            store,
            notifier,
            call_owner,
            relay_router.cached_call,
            cancel_ring_deadline,
            ring_limiter.record_ring,
        )
        call_setup = CallSetup(
            store,
            notifier,
            call_service,
            call_owner,
            policy,
            set_ring_deadline,
            ring_limiter.attempt,
            ring_timeout=settings.ring_timeout_seconds,
        )

        # Requests and relays; both drain at once.
        server = await rpc.RpcServer.open(bus, SERVICE, instance, distribution_version())

        async def drain() -> None:
            await asyncio.gather(server.stop(DRAIN_SECONDS), relay_router.stop(DRAIN_SECONDS))

        work.push_async_callback(drain)
        await relay_router.start()
        await Handlers(call_setup, call_service, call_owner).register(server, instance)
        await bus.flush()  # NATS knows the endpoints before another instance knows of this one

        # Work that no client requests: ring deadlines, reconciliation, marks in the mailbox stream.
        deadlines = Timers(bus, subjects.RING, on_ring_deadline)
        deadlines.start()
        work.push_async_callback(deadlines.stop)
        work.callback(hits.stop)
        reconciler = Reconciler(
            store,
            call_service,
            lambda id_: owner_of(id_) == instance,
            seconds=settings.sweep_seconds,
            second_check_seconds=timing.second_check_seconds,
            overdue_ms=timing.overdue_ms,
        )
        reconciler.start()
        work.push_async_callback(reconciler.stop)
        marker = Marker(bus)
        marker.start()
        work.push_async_callback(marker.stop)

        # Health and metrics.
        http = await health.serve(settings.host, settings.health_port, bus)
        base.push_async_callback(http.cleanup)
        lag = LoopLag()
        watched = registry_of(
            process_metrics.of_process(
                SERVICE,
                instance,
                bus,
                lag,
                ready=lambda: not health.missing(bus),
                clients=(peers,),
                hits=hits,
                limits=metrics.LIMITS,
            ),
            process_metrics.of_server(server),
            process_metrics.of_buckets(calls, sessions),
            process_metrics.of_recorder(event_log),
            process_metrics.of_deadlines(deadlines),
            metrics.of_callcore(call_service.stats, route_cache, slow_path, reconciler, policy),
        )
        metrics_http = await serve(settings.metrics_host, settings.metrics_port, watched)
        base.push_async_callback(metrics_http.cleanup)
        lag.start()
        base.callback(lag.stop)

        # Last: gateways and other instances send relays and requests from now on.
        beacon = Beacon(bus, SERVICE, instance, distribution_version())
        await beacon.start()
        work.push_async_callback(beacon.stop)
        yield


def _ring_limits(settings: Settings) -> RingLimits | None:
    if not settings.rate_limit:
        return None
    return RingLimits(
        settings.rings_per_caller,
        settings.rings_per_callee,
        settings.ring_backoff_seconds,
        settings.ring_backoff_max_seconds,
    )


async def _storage(bus: Bus, settings: Settings) -> None:
    await Bucket.create(bus, subjects.BUCKET_CALLS, replicas=settings.kv_replicas)
    await streams.ensure_deadlines(bus, replicas=settings.kv_replicas)
    await streams.ensure_deliver(
        bus,
        replicas=settings.kv_replicas,
        max_age_seconds=settings.deliver_max_age_seconds or max(60, 2 * settings.resume_window_seconds),
        max_mb=settings.deliver_max_mb,
    )
    await streams.ensure_events(
        bus,
        replicas=settings.kv_replicas,
        max_age_hours=settings.events_max_age_hours,
        max_mb=settings.events_max_mb,
    )
