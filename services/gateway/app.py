"""Composition root of the gateway: what it is made of, in the order it starts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from services.gateway import metrics
from services.gateway.auth.authenticator import Authenticator
from services.gateway.auth.turn_credentials import IceServers
from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import Responder
from services.gateway.handlers.call_events import CallEvents
from services.gateway.handlers.dispatcher import Dispatcher
from services.gateway.handlers.query_events import QueryEvents
from services.gateway.handlers.relay_fast_path import RelayFastPath
from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.limits.join_timeout import JoinTimeout
from services.gateway.limits.rate_limiter import RateLimiter
from services.gateway.limits.strike_counter import StrikeCounter
from services.gateway.readiness import Readiness
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.service import RelayService
from services.gateway.sessions.background_retry import BackgroundRetrier
from services.gateway.sessions.delivery import Delivery
from services.gateway.sessions.gateway_lease import GatewayLease
from services.gateway.sessions.join import JoinService
from services.gateway.sessions.relay_handover import Handover
from services.gateway.sessions.resume import ResumingSessions
from services.gateway.settings import Settings
from services.gateway.transport import demo_page
from services.gateway.transport.drain import drain
from services.gateway.transport.host_check import host_check
from services.gateway.transport.http_server import HttpServer
from services.gateway.transport.origin_check import OriginAllowed, cors, origin_check
from services.gateway.transport.socketio_server import PATH, SocketIOOptions, SocketIOServer
from shared import subjects
from shared.clock import now_ms
from shared.messaging.membership import Beacon, Membership
from shared.messaging.rpc import RpcClient
from shared.nats import storage_full
from shared.nats.connection import Bus
from shared.nats.hang_detector import HangDetector
from shared.observability import logs, response_headers
from shared.observability.limit_hits import LimitHits
from shared.observability.loop_lag import LoopLag
from shared.observability.metrics import registry_of, serve
from shared.service import health, process_metrics
from shared.service.runner import distribution_version

log = logs.get(__name__)

SERVICE = "gateway"
NEEDED = ("callcore", "presence")
STORED_BY_JOINS = (subjects.STREAM_DEADLINES, f"KV_{subjects.BUCKET_SESSIONS}")
"""The streams without which nobody can join."""
STOP_SECONDS = 3.0
BACKLOG = 4096
"""Connections that may wait to be taken: the clients of a gateway that died come all at once."""
LEASE_TRY_SECONDS = 1.0
"""Two tries of it, and the wait between two renewals, are less than a lease."""


@asynccontextmanager
async def start(settings: Settings, instance: str) -> AsyncIterator[None]:
    """Run one gateway. Raises :class:`shared.errors.Unavailable` if NATS is not there, ``OSError`` for a taken port.

    ``instance``: a name that no gateway has had before, because sessions of one that died may still be at it.
    """
    bus = await Bus.connect(settings.nats_url, name=instance, inboxes=SERVICE, login=settings.nats_login())
    try:
        members, hang_detector = Membership(bus, *NEEDED), HangDetector(bus)
        registry, retrier = Registry(), BackgroundRetrier(lambda: bus.connected)
        auth = Authenticator.of(settings)
        hits, clock = LimitHits(), asyncio.get_running_loop().time
        rates = RateLimiter(settings, hits)
        limits = settings.connection_limits() if settings.rate_limit else None
        connections = ConnectionLimits(
            settings.trusted_proxies, limits, lambda eio_sid: transport.closer.drop(eio_sid), hits
        )
        origin_allowed = origin_check(settings.client_url)
        host_allowed = host_check(settings.host, settings.allowed_hosts)
        transport = SocketIOServer(
            SocketIOOptions(
                ping_interval=settings.ping_interval_seconds,
                ping_timeout=settings.ping_timeout_seconds,
                max_frame=settings.max_frame_kb * 1024,
                json_depth=settings.json_depth_max,
                unread_max=settings.unread_max_kb * 1024,
                unread_seconds=settings.unread_seconds,
                unread_total=settings.unread_total_mb * 2**20,
            ),
            origin_allowed=origin_allowed,
            host_allowed=host_allowed,
            connections=connections,
            hits=hits,
        )
        replies = Responder(transport.sender)
        services = RpcClient(bus, timeout=settings.request_timeout_seconds)
        heard = ReceiveOrder()
        relays = RelayService(
            instance, bus, members, registry, replies, services, heard, ack_seconds=settings.relay_ack_seconds
        )
        handover = Handover(bus, registry)
        resuming = ResumingSessions(bus, handover.heard_of)
        outbound = Delivery(instance, bus, registry, transport, resuming, heard)
        join_timeout = JoinTimeout(settings.join_timeout_seconds, transport.close, hits)
        renewals, lag = RpcClient(bus, timeout=LEASE_TRY_SECONDS), LoopLag()
        lease = GatewayLease(
            instance,
            renewals,
            registry,
            retrier,
            presence_there=lambda: bool(members.alive("presence")),
            replaced=outbound.replaced,
            lost=lambda socket: join_service.lost(socket),
        )
        ice_servers = IceServers(
            settings.ice_servers_wire(),
            settings.turn_urls,
            settings.turn_secret.get_secret_value(),
            settings.turn_ttl_seconds,
            now_ms,
        )
        join_service = JoinService(
            instance,
            registry,
            transport,
            replies,
            services,
            relays,
            outbound,
            resuming,
            retrier,
            auth,
            join_timeout,
            connections,
            rates,
            lease_held=lambda: lease.held,
            ice_servers=ice_servers,
            resume_window=settings.resume_window_seconds,
            refuse_invisible=settings.user_id_invisible == "refuse",
        )
        calls = CallEvents(services, replies, join_service, retrier)
        inbound = transport.receiver = Dispatcher(
            registry,
            transport,
            replies,
            relays,
            RelayFastPath(registry, relays, replies, settings.sizes()),
            calls,
            QueryEvents(services, replies, transport.sender, ice_servers),
            join_service,
            auth,
            StrikeCounter(settings.strikes_max, clock, step=0.05 if limits else 0, longest=0.5, free=5),
            StrikeCounter(settings.refusals_max, clock, step=0.01, longest=0.25),
            rates,
            hits,
            join_timeout,
            connections,
            settings.sizes(),
        )

        beacon = Beacon(bus, SERVICE, instance, distribution_version(), sockets=lambda: len(registry))

        def missing() -> list[str]:
            if transport.draining:
                return ["draining"]
            if not bus.connected:
                return ["NATS is out of reach"]
            away = [f"no {service} is there" for service in NEEDED if not members.alive(service)]
            away += storage_full.reasons(tuple(name for name in members.full() if name in STORED_BY_JOINS))
            return [*(away or lease.missing()), *auth.missing()]

        def impaired() -> list[str]:
            return storage_full.reasons(tuple(sorted({*members.full(), *bus.full.streams()})))

        watched = registry_of(
            process_metrics.of_process(
                SERVICE,
                instance,
                bus,
                lag,
                ready=lambda: not missing(),
                clients=(services, renewals),
                hits=hits,
                limits=metrics.LIMITS,
            ),
            metrics.of_gateway(
                registry,
                transport,
                join_timeout,
                join_service,
                resuming,
                replies,
                inbound,
                calls,
                relays,
                retrier,
                lease,
                members,
                NEEDED,
            ),
        )
        watching = await serve(settings.metrics_host, settings.metrics_port, watched)
        lag.start()
        await members.start()
        await relays.start()
        await outbound.start()
        await handover.start()
        await bus.flush()
        bus.on_reconnect.append(lease.renew_soon)
        lease.start()
        hang_detector.start()
        join_timeout.start()
        auth.start()
        transport.start()
        await beacon.start()
        readiness = Readiness(missing)
        readiness.start()
        runner = HttpServer(
            _application(transport, origin_allowed, missing, impaired, demo=settings.demo), connections
        )
        await runner.setup()
        site: web.TCPSite | None = None
        try:
            site = await runner.listen(settings.host, settings.port, backlog=BACKLOG)
            hosts = ["*"] if host_allowed is None else ["loopback", *settings.allowed_hosts]
            log.info("listening", host=settings.host, port=settings.port, allowed_hosts=hosts)
            yield
        finally:
            transport.draining = True
            await readiness.stop()
            await drain(transport, settings.drain_seconds)
            inbound.stopping = True
            if site is not None:
                await site.stop()
            await join_timeout.stop()
            await auth.stop()
            hits.stop()
            await transport.closer.close_all()
            await transport.shutdown()
            await retrier.drain(STOP_SECONDS)
            await lease.stop()
            await resuming.stop()
            await beacon.stop()
            await relays.stop(STOP_SECONDS)
            await runner.cleanup()
            await members.stop()
            await hang_detector.stop()
            lag.stop()
            await watching.cleanup()
    finally:
        await bus.close()


def _application(
    transport: SocketIOServer,
    origin_allowed: OriginAllowed,
    missing: health.Check,
    impaired: health.Check,
    *,
    demo: bool,
) -> web.Application:
    app = web.Application()
    health.add_routes(app, missing, impaired)
    transport.attach(app, PATH)
    if demo:
        demo_page.add_routes(app)
    # No middleware: it would be two more frames on the stack of every connection.
    app.router.add_route("*", "/{path:.*}", _not_found)
    app.on_response_prepare.append(response_headers.on_prepare)
    app.on_response_prepare.append(cors(origin_allowed, f"/{PATH}"))
    return app


async def _not_found(_: web.Request) -> web.Response:
    return web.json_response({"ok": False, "error": "not found"}, status=404)
