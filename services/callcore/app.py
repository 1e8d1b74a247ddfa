"""Composition root of call control: what it is made of, in the order it starts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.callcore import metrics
from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.call_service import CallService
from services.callcore.calls.call_setup import CallSetup
from services.callcore.calls.reconciler import Reconciler
from services.callcore.calls.ring_limiter import RingLimiter, RingLimits
from services.callcore.handlers import Handlers
from services.callcore.notify.notifier import Notifier
from services.callcore.notify.redelivery import RedeliveryBuffer
from services.callcore.relay.relay_router import RelayRouter
from services.callcore.settings import Settings
from services.callcore.state.model import Call
from services.callcore.store import Store
from shared import subjects
from shared.messaging import rpc
from shared.messaging.event_log import EventLog
from shared.messaging.mailbox import MailboxPublisher
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


@asynccontextmanager
async def start(settings: Settings, instance: str) -> AsyncIterator[None]:
    """Run one instance of call control. Raises :class:`shared.errors.Unavailable` if NATS is not there."""
    bus = await Bus.connect(settings.nats_url, name=instance, inboxes=SERVICE, login=settings.nats_login())
    try:
        storage = streams.StreamKeeper(bus, lambda: _storage(bus, settings))
        await storage.start()
        calls, hits = Bucket(bus, subjects.BUCKET_CALLS), LimitHits()
        sessions, lag = Bucket(bus, subjects.BUCKET_SESSIONS), LoopLag()
        store = Store(calls, sessions)
        mailbox_publisher, event_log = MailboxPublisher(bus), EventLog(bus)
        members = Membership(bus, SERVICE)

        def owner(call: str) -> str | None:
            return members.owner(SERVICE, call)

        def set_ring(call: Call) -> asyncio.Future[None]:
            return set_deadline(bus, subjects.RING, call.call, call.expires_at)

        def rings_no_more(call: str) -> None:
            cancel_deadline(bus, subjects.RING, call)

        async def ring_due(call: str, _: bytes) -> None:
            await control.time_out(call)

        call_bytes = ByteRate.of_kib(settings.rate_call_kb) if settings.rate_limit else None
        relay_router = RelayRouter(bus, store, mailbox_publisher, instance, owner, call_bytes, hits)
        told = RedeliveryBuffer(bus, mailbox_publisher)
        notifier = Notifier(relay_router.announce, told, event_log)
        peers = rpc.RpcClient(bus, timeout=settings.request_timeout_seconds)
        call_owner = CallOwner(instance, owner, peers)
        ring_limiter = RingLimiter(calls, _ring_limits(settings), hits)
        control = CallService(
            store, notifier, call_owner, relay_router.known, rings_no_more, ring_limiter.ring_over
        )
        policy = PolicyClient(bus, settings.policy)
        call_setup = CallSetup(
            store,
            notifier,
            control,
            call_owner,
            policy,
            set_ring,
            ring_limiter.attempt,
            ring_timeout=settings.ring_timeout_seconds,
        )
        deadlines = Timers(bus, subjects.RING, ring_due)
        sweep = Reconciler(store, control, lambda id_: owner(id_) == instance, seconds=settings.sweep_seconds)
        marker = Marker(bus)
        beacon = Beacon(bus, SERVICE, instance, distribution_version())

        await members.start()
        await relay_router.start(control.happen)
        await told.start()
        server = await rpc.RpcServer.open(bus, SERVICE, instance, distribution_version())
        await Handlers(call_setup, control, call_owner).register(server, instance)
        await bus.flush()  # NATS knows the endpoints before anybody hears of this instance
        deadlines.start()
        sweep.start()
        marker.start()
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
            metrics.of_callcore(control, relay_router, sweep, policy),
        )
        watching = await serve(settings.metrics_host, settings.metrics_port, watched)
        lag.start()
        http = await health.serve(settings.host, settings.health_port, bus)
        await beacon.start()
        try:
            yield
        finally:
            await beacon.stop()
            await marker.stop()
            await sweep.stop()
            hits.stop()
            await deadlines.stop()
            await asyncio.gather(server.stop(DRAIN_SECONDS), relay_router.stop(DRAIN_SECONDS))
            await told.stop()
            await event_log.drain(DRAIN_SECONDS)
            await members.stop()
            lag.stop()
            await watching.cleanup()
            await http.cleanup()
            await storage.stop()
    finally:
        await bus.close()


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
