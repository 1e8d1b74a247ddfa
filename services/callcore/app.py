"""Composition root of call control: what it is made of, in the order it starts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.callcore import metrics
from services.callcore.calls.call_owner import Charge
from services.callcore.calls.call_service import Control
from services.callcore.calls.call_setup import Placing
from services.callcore.calls.reconciler import Sweep
from services.callcore.calls.ring_limiter import RingLimiter, RingLimits
from services.callcore.handlers import Handlers
from services.callcore.notify.notifier import Teller
from services.callcore.notify.redelivery import Told
from services.callcore.relay.relay_router import Lanes
from services.callcore.settings import Settings
from services.callcore.state.model import Call
from services.callcore.store import Store
from shared import subjects
from shared.messaging import rpc
from shared.messaging.event_log import Recorder
from shared.messaging.mailbox import Postman
from shared.messaging.membership import Beacon, Members
from shared.messaging.policy_client import Policy
from shared.messaging.timers import Deadlines, cancel_deadline, set_deadline
from shared.nats import streams
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from shared.observability.limit_hits import Hits
from shared.observability.loop_lag import Lag
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
        storage = streams.Keeper(bus, lambda: _storage(bus, settings))
        await storage.start()
        calls, hits = Bucket(bus, subjects.BUCKET_CALLS), Hits()
        sessions, lag = Bucket(bus, subjects.BUCKET_SESSIONS), Lag()
        store = Store(calls, sessions)
        postman, recorder = Postman(bus), Recorder(bus)
        members = Members(bus, SERVICE)

        def owner(call: str) -> str | None:
            return members.owner(SERVICE, call)

        def set_ring(call: Call) -> asyncio.Future[None]:
            return set_deadline(bus, subjects.RING, call.call, call.expires_at)

        def rings_no_more(call: str) -> None:
            cancel_deadline(bus, subjects.RING, call)

        async def ring_due(call: str, _: bytes) -> None:
            await control.time_out(call)

        call_bytes = ByteRate.of_kib(settings.rate_call_kb) if settings.rate_limit else None
        lanes = Lanes(bus, store, postman, instance, owner, call_bytes, hits)
        told = Told(bus, postman)
        teller = Teller(lanes.announce, told, recorder)
        peers = rpc.Client(bus, timeout=settings.request_timeout_seconds)
        charge = Charge(instance, owner, peers)
        ring_limiter = RingLimiter(calls, _ring_limits(settings), hits)
        control = Control(store, teller, charge, lanes.known, rings_no_more, ring_limiter.ring_over)
        policy = Policy(bus, settings.policy)
        placing = Placing(
            store,
            teller,
            control,
            charge,
            policy,
            set_ring,
            ring_limiter.attempt,
            ring_timeout=settings.ring_timeout_seconds,
        )
        deadlines = Deadlines(bus, subjects.RING, ring_due)
        sweep = Sweep(store, control, lambda id_: owner(id_) == instance, seconds=settings.sweep_seconds)
        beacon = Beacon(bus, SERVICE, instance, distribution_version())

        await members.start()
        await lanes.start(control.happen)
        await told.start()
        server = await rpc.Server.open(bus, SERVICE, instance, distribution_version())
        await Handlers(placing, control, charge).register(server, instance)
        await bus.flush()  # NATS knows the endpoints before anybody hears of this instance
        deadlines.start()
        sweep.start()
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
            process_metrics.of_recorder(recorder),
            process_metrics.of_deadlines(deadlines),
            metrics.of_callcore(control, lanes, sweep, policy),
        )
        watching = await serve(settings.metrics_host, settings.metrics_port, watched)
        lag.start()
        http = await health.serve(settings.host, settings.health_port, bus)
        await beacon.start()
        try:
            yield
        finally:
            await beacon.stop()
            await sweep.stop()
            hits.stop()
            await deadlines.stop()
            await asyncio.gather(server.stop(DRAIN_SECONDS), lanes.stop(DRAIN_SECONDS))
            await told.stop()
            await recorder.drain(DRAIN_SECONDS)
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
