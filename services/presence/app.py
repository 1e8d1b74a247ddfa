"""Composition root of presence: what it is made of, in the order it starts and stops."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.presence import metrics
from services.presence.connection_check import ConnectionCheck
from services.presence.grace_periods import GracePeriods
from services.presence.handlers import Handlers
from services.presence.join_limiter import JoinLimiter
from services.presence.join_service import JoinService
from services.presence.leases import Leases
from services.presence.model import SessionPolicy
from services.presence.notifier import Notifier
from services.presence.settings import Settings
from services.presence.store import Store
from shared import subjects
from shared.messaging import rpc, time_budget
from shared.messaging.event_log import EventLog
from shared.messaging.membership import Beacon
from shared.messaging.policy_client import PolicyClient
from shared.messaging.timers import Timers
from shared.nats import streams
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from shared.observability.limit_hits import LimitHits
from shared.observability.loop_lag import LoopLag
from shared.observability.metrics import registry_of, serve
from shared.service import health, process_metrics
from shared.service.runner import distribution_version

SERVICE = "presence"
DRAIN_SECONDS = 3.0


@asynccontextmanager
async def start(settings: Settings, instance: str) -> AsyncIterator[None]:
    """Run one instance of presence. Raises :class:`shared.errors.Unavailable` if NATS is not there."""
    bus = await Bus.connect(settings.nats_url, name=instance, inboxes=SERVICE, login=settings.nats_login())
    try:
        storage = streams.StreamKeeper(bus, lambda: _storage(bus, settings))
        await storage.start()
        event_log = EventLog(bus)
        # Two tries of call control must fit in the time that a gateway waits for one try of presence.
        calls = rpc.RpcClient(bus, timeout=time_budget.INNER * settings.request_timeout_seconds)
        store, policy = Store(bus), _policy(settings)
        notifier = Notifier(bus, event_log, calls, store.concerned)
        graces = GracePeriods(bus, store, notifier, policy)
        leases = Leases(bus, store, graces)
        contacts = PolicyClient(bus, "required" if settings.status_visibility == "contacts" else "off")
        hits, lag = LimitHits(), LoopLag()
        # A question, and what comes before and after it, fit in the time that a gateway waits for one try.
        connections = ConnectionCheck(bus, most=settings.request_timeout_seconds / 2)
        limiter = JoinLimiter(
            store.buckets[0], settings.joins_per_user if settings.rate_limit else None, hits
        )
        joins = JoinService(store, notifier, graces, connections, limiter, policy, hits)
        handlers = Handlers(store, notifier, graces, leases, joins, contacts)
        deadlines = (
            Timers(bus, subjects.GRACE, graces.due),
            Timers(bus, subjects.LEASE, leases.due),
        )
        beacon = Beacon(bus, SERVICE, instance, distribution_version())

        http = await health.serve(settings.host, settings.health_port, bus)
        server = await rpc.RpcServer.open(bus, SERVICE, instance, distribution_version())
        await handlers.register(server)
        await bus.flush()  # NATS knows the endpoints before anybody hears of this instance
        for kind in deadlines:
            kind.start()
        watched = registry_of(
            process_metrics.of_process(
                SERVICE,
                instance,
                bus,
                lag,
                ready=lambda: not health.missing(bus),
                clients=(calls,),
                hits=hits,
                limits=metrics.LIMITS,
            ),
            process_metrics.of_server(server),
            process_metrics.of_buckets(*store.buckets),
            process_metrics.of_recorder(event_log),
            process_metrics.of_deadlines(*deadlines),
            metrics.of_presence(notifier, graces, leases, contacts),
        )
        watching = await serve(settings.metrics_host, settings.metrics_port, watched)
        lag.start()
        await beacon.start()
        try:
            yield
        finally:
            await beacon.stop()
            for kind in deadlines:
                await kind.stop()
            await server.stop(DRAIN_SECONDS)
            await event_log.drain(DRAIN_SECONDS)
            hits.stop()
            lag.stop()
            await watching.cleanup()
            await http.cleanup()
            await storage.stop()
    finally:
        await bus.close()


async def _storage(bus: Bus, settings: Settings) -> None:
    await Bucket.create(bus, subjects.BUCKET_SESSIONS, replicas=settings.kv_replicas)
    await streams.ensure_deadlines(bus, replicas=settings.kv_replicas)
    await streams.ensure_events(
        bus,
        replicas=settings.kv_replicas,
        max_age_hours=settings.events_max_age_hours,
        max_mb=settings.events_max_mb,
    )


def _policy(settings: Settings) -> SessionPolicy:
    return SessionPolicy(
        single=settings.session_policy == "single",
        limit=settings.sessions_per_user,
        grace_ms=settings.resume_window_seconds * 1000,
    )
