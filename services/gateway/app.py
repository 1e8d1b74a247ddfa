"""Compose the gateway, start its parts, and stop them in the opposite order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from services.gateway import metrics
from services.gateway.auth.authenticator import Authenticator
from services.gateway.auth.turn_credentials import IceServers
from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import Responder
from services.gateway.handlers.call_events import CallEvents
from services.gateway.handlers.dispatcher import Dispatcher
from services.gateway.handlers.event_table import event_table
from services.gateway.handlers.query_events import QueryEvents
from services.gateway.handlers.relay_events import RelayEvents
from services.gateway.handlers.relay_fast_path import RelayFastPath
from services.gateway.handlers.session_events import SessionEvents
from services.gateway.limits.client_limits import ClientLimits
from services.gateway.limits.connection_limits import ConnectionLimits
from services.gateway.limits.join_timeout import JoinTimeout
from services.gateway.limits.penalties import Penalties
from services.gateway.limits.rate_limiter import RateLimiter
from services.gateway.limits.strike_counter import StrikeCounter
from services.gateway.readiness import NEEDED, HealthCheck, Readiness
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.service import RelayService
from services.gateway.sessions.backend import Backend
from services.gateway.sessions.background_retry import BackgroundRetrier
from services.gateway.sessions.call_attacher import CallAttacher
from services.gateway.sessions.delivery import Delivery
from services.gateway.sessions.gateway_lease import GatewayLease
from services.gateway.sessions.join import JoinBackend, JoinService, SessionTerms
from services.gateway.sessions.join_checks import JoinChecks
from services.gateway.sessions.join_requester import JoinRequester
from services.gateway.sessions.leave import LeaveService
from services.gateway.sessions.relay_handover import RelayHandover
from services.gateway.sessions.resume import ResumingSessions
from services.gateway.settings import Settings
from services.gateway.transport import demo_page
from services.gateway.transport.drain import drain
from services.gateway.transport.host_check import host_check
from services.gateway.transport.http_server import HttpServer
from services.gateway.transport.origin_check import OriginAllowed, cors, origin_check
from services.gateway.transport.socketio_server import PATH, SocketIOOptions, SocketIOServer
from shared.clock import now_ms
from shared.messaging.membership import Beacon, Membership
from shared.messaging.rpc import RpcClient
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
STOP_SECONDS = 3.0
BACKLOG = 4096
"""Connections that may wait to be accepted, because the clients of a gateway that died all connect at once."""
LEASE_TRY_SECONDS = 1.0
"""Timeout of one try to renew. Two tries and the pause between two renewals take less time than a lease lasts."""


@asynccontextmanager
async def start(settings: Settings, instance: str) -> AsyncIterator[None]:
    """Run one gateway. Raises :class:`shared.errors.Unavailable` without NATS, ``OSError`` if a port is taken.

    ``instance``: a name that no gateway has had before, because sessions of a gateway that died may still have it.
    """
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(
            settings.nats_url, name=instance, inboxes=SERVICE, login=settings.nats_login()
        )
        stack.push_async_callback(bus.close)

        # --- construction ---------------------------------------------------------------------------------------

        # Limits and connections
        hits, clock = LimitHits(), asyncio.get_running_loop().time
        connections = ConnectionLimits(
            settings.trusted_proxies,
            settings.connection_limits() if settings.rate_limit else None,
            lambda eio_sid: server.closer.drop(eio_sid),
            hits,
        )
        origin_allowed = origin_check(settings.client_url)
        host_allowed = host_check(settings.host, settings.allowed_hosts)
        server = SocketIOServer(
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
        penalties = Penalties(
            StrikeCounter(
                settings.strikes_max, clock, step=0.05 if settings.rate_limit else 0, longest=0.5, free=5
            ),
            StrikeCounter(settings.refusals_max, clock, step=0.01, longest=0.25),
            server.closer.close_soon,
            hits,
        )
        join_timeout = JoinTimeout(settings.join_timeout_seconds, server.closer.close, hits)
        limits = ClientLimits(RateLimiter(settings, hits), connections, join_timeout, penalties, hits)
        clients = ConnectedClients(Registry(), server, Responder(server.sender))

        # Presence, callcore and the other gateways
        members = Membership(bus, *NEEDED)
        hang_detector, lag = HangDetector(bus), LoopLag()
        retrier = BackgroundRetrier(lambda: bus.connected)
        backend = Backend(instance, RpcClient(bus, timeout=settings.request_timeout_seconds), retrier)
        receive_order = ReceiveOrder()
        relays = RelayService(
            instance,
            bus,
            members,
            clients.registry,
            clients.responder,
            backend.rpc,
            receive_order,
            ack_seconds=settings.relay_ack_seconds,
        )
        handover = RelayHandover(bus, clients.registry)
        resuming = ResumingSessions(bus, handover.relays_received)
        delivery = Delivery(instance, bus, clients, resuming, receive_order)

        # Sessions
        leave_service = LeaveService(clients, backend)
        lease_client = RpcClient(bus, timeout=LEASE_TRY_SECONDS)
        lease = GatewayLease(
            instance,
            lease_client,
            clients.registry,
            retrier,
            presence_there=lambda: bool(members.alive("presence")),
            replaced=delivery.replaced,
            lost=leave_service.lost,
        )
        auth = Authenticator.of(settings, leave_service.token_expired)
        ice_servers = IceServers(
            settings.ice_servers_wire(),
            settings.turn_urls,
            settings.turn_secret.get_secret_value(),
            settings.turn_ttl_seconds,
            now_ms,
        )
        join_service = JoinService(
            clients,
            JoinChecks(auth, limits, refuse_invisible=settings.user_id_invisible == "refuse"),
            JoinBackend(JoinRequester(backend, lease, leave_service), CallAttacher(backend), leave_service),
            delivery,
            resuming,
            relays,
            SessionTerms(ice_servers, settings.resume_window_seconds),
        )

        # Client events
        calls = CallEvents(backend, clients.responder)
        fast_path = RelayFastPath(clients.registry, relays, clients.responder, settings.sizes())
        handlers = event_table(
            SessionEvents(join_service),
            calls,
            QueryEvents(backend.rpc, clients.responder, server.sender, ice_servers),
            RelayEvents(relays, fast_path),
        )
        dispatcher = Dispatcher(clients, handlers, leave_service, relays, auth, limits, settings.sizes())

        # Health and metrics
        health_check = HealthCheck(bus, members, server, lease, auth)
        readiness = Readiness(health_check.missing)
        http = HttpServer(
            _application(server, dispatcher, fast_path, origin_allowed, health_check, demo=settings.demo),
            connections,
        )
        metric_reads = registry_of(
            process_metrics.of_process(
                SERVICE,
                instance,
                bus,
                lag,
                ready=lambda: not health_check.missing(),
                clients=(backend.rpc, lease_client),
                hits=hits,
                limits=metrics.LIMITS,
            ),
            metrics.of_clients(clients, join_timeout),
            metrics.of_sessions(clients.registry, join_service, resuming, lease, retrier),
            metrics.of_events(clients.responder, dispatcher, calls),
            metrics.of_relays(relays),
            metrics.of_members(members, NEEDED),
        )

        # --- how it starts; it stops in the opposite order --------------------------------------------------------

        metric_server = await serve(settings.metrics_host, settings.metrics_port, metric_reads)
        stack.push_async_callback(metric_server.cleanup)
        lag.start()
        stack.callback(lag.stop)
        hang_detector.start()
        stack.push_async_callback(hang_detector.stop)
        await members.start()
        stack.push_async_callback(members.stop)
        await http.setup()
        stack.push_async_callback(http.cleanup)

        await relays.start()
        stack.push_async_callback(relays.stop, STOP_SECONDS)
        await delivery.start()
        await handover.start()
        await bus.flush()  # NATS has the subscriptions before other instances learn of this gateway
        beacon = Beacon(bus, SERVICE, instance, distribution_version(), sockets=lambda: len(clients.registry))
        await beacon.start()
        stack.push_async_callback(beacon.stop)
        stack.push_async_callback(resuming.stop)
        bus.on_reconnect.append(lease.renew_soon)
        lease.start()
        stack.push_async_callback(lease.stop)
        stack.push_async_callback(retrier.drain, STOP_SECONDS)

        server.start()
        stack.push_async_callback(server.shutdown)
        stack.push_async_callback(server.closer.close_all)
        stack.callback(hits.stop)
        auth.start()
        stack.push_async_callback(auth.stop)
        join_timeout.start()
        stack.push_async_callback(join_timeout.stop)
        site = await http.listen(settings.host, settings.port, backlog=BACKLOG)
        stack.push_async_callback(site.stop)
        stack.callback(dispatcher.stop)  # sessions that are still here are lost with the lease
        stack.push_async_callback(drain, server, settings.drain_seconds)
        readiness.start()
        stack.push_async_callback(readiness.stop)
        stack.callback(server.begin_draining)

        hosts = ["*"] if host_allowed is None else ["loopback", *settings.allowed_hosts]
        log.info("listening", host=settings.host, port=settings.port, allowed_hosts=hosts)
        yield


def _application(
    server: SocketIOServer,
    dispatcher: Dispatcher,
    fast_path: RelayFastPath,
    origin_allowed: OriginAllowed,
    health_check: HealthCheck,
    *,
    demo: bool,
) -> web.Application:
    app = web.Application()
    health.add_routes(app, health_check.missing, health_check.impaired)
    server.attach(app, dispatcher, fast_path)
    if demo:
        demo_page.add_routes(app)
    # No middleware, because each would add two frames to the stack of every connection.
    app.router.add_route("*", "/{path:.*}", _not_found)
    app.on_response_prepare.append(response_headers.on_prepare)
    app.on_response_prepare.append(cors(origin_allowed, f"/{PATH}"))
    return app


async def _not_found(_: web.Request) -> web.Response:
    return web.json_response({"ok": False, "error": "not found"}, status=404)
