"""Composition root of presence: what it consists of, in the order it starts. It stops in the opposite order."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.presence import metrics
from services.presence.connection_check import ConnectionCheck
from services.presence.grace_periods import GracePeriods
from services.presence.handlers import Handlers
from services.presence.join_limiter import JoinLimiter
from services.presence.join_service import JoinService
from services.presence.leases import BATCH, Leases
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
async def start(settings: Settings, instance: str, *, lease_batch: int = BATCH) -> AsyncIterator[None]:
    """Run one instance of presence. Raises :class:`shared.errors.Unavailable` if NATS does not answer.

    ``lease_batch``: see :class:`services.presence.leases.Leases`. ``base`` stops last: health and metrics are served
    until the work in ``work`` has stopped.
    """
    async with AsyncExitStack() as base, AsyncExitStack() as work:
        # NATS: the connection, the bucket and streams.
        bus = await Bus.connect(
            settings.nats_url, name=instance, inboxes=SERVICE, login=settings.nats_login()
        )
        base.push_async_callback(bus.close)
        storage = streams.StreamKeeper(bus, lambda: _storage(bus, settings))
        await storage.start()
        base.push_async_callback(storage.stop)
        store, policy = Store(bus), _policy(settings)

        # Notification of call control, of gateways, and of EVENTS.
        event_log = EventLog(bus)
        # Two tries of call control must fit in the time that a gateway waits for one try of presence.
        calls = rpc.RpcClient(bus, timeout=time_budget.INNER * settings.request_timeout_seconds)
        notifier = Notifier(bus, event_log, calls, store.call_of)

        # Sessions: joins, grace periods, leases of gateways.
        graces = GracePeriods(bus, store, notifier, policy)
        leases = Leases(bus, store, graces, batch=lease_batch)
        hits = LimitHits()
        # A check, and what comes before and after it, fit in the time that a gateway waits for one try.
        connections = ConnectionCheck(bus, most=settings.request_timeout_seconds / 2)
        limiter = JoinLimiter(
            store.buckets[0], settings.joins_per_user if settings.rate_limit else None, hits
        )
        joins = JoinService(store, notifier, graces, connections, limiter, policy, hits)
        contacts = PolicyClient(bus, "required" if settings.status_visibility == "contacts" else "off")

        # Health; requests.
        http = await health.serve(settings.host, settings.health_port, bus)
        base.push_async_callback(http.cleanup)
        work.callback(hits.stop)
        work.push_async_callback(event_log.drain, DRAIN_SECONDS)
        server = await rpc.RpcServer.open(bus, SERVICE, instance, distribution_version())
        work.push_async_callback(server.stop, DRAIN_SECONDS)
        await Handlers(store, notifier, graces, leases, joins, contacts).register(server)
        await bus.flush()  # NATS knows the endpoints before another instance knows of this one

        # Deadlines of grace periods and leases.
        deadlines = (Timers(bus, subjects.GRACE, graces.due), Timers(bus, subjects.LEASE, leases.due))
        for timers in deadlines:
            timers.start()
            work.push_async_callback(timers.stop)

        # Metrics.
        lag = LoopLag()
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
        metrics_http = await serve(settings.metrics_host, settings.metrics_port, watched)
        base.push_async_callback(metrics_http.cleanup)
        lag.start()
        base.callback(lag.stop)

        # Last: the instance is announced.
        beacon = Beacon(bus, SERVICE, instance, distribution_version())
        await beacon.start()
        work.push_async_callback(beacon.stop)
        yield


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
