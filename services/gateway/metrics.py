"""Metrics of a gateway, and where they are read."""

from services.gateway.clients.connected_clients import ConnectedClients
from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import Responder
from services.gateway.handlers.call_events import CallEvents
from services.gateway.handlers.dispatcher import Dispatcher
from services.gateway.limits.join_timeout import JoinTimeout
from services.gateway.protocol.event_class import EventClass
from services.gateway.relay.send_buffer import BYTES_MAX, RELAYS_MAX
from services.gateway.relay.service import RelayService
from services.gateway.sessions.background_retry import BackgroundRetrier
from services.gateway.sessions.gateway_lease import GatewayLease
from services.gateway.sessions.join import JoinService
from services.gateway.sessions.resume import ResumingSessions
from shared.messaging.membership import Membership
from shared.observability.metrics import Reads, counter, gauge, histogram, with_zeros

CONNECTIONS = gauge("signalling_connections", "Connections of clients, by transport.", "transport")
UNJOINED = gauge("signalling_unjoined_connections", "Connections that have not joined yet.")
SOCKETS = gauge("signalling_sockets", "Connected clients.")
SESSIONS = gauge("signalling_joined_sessions", "Joined sessions.")
JOINS = counter(
    "signalling_joins_total",
    "Joins. kind: new; resumed, as requested; continued, without a request to resume.",
    "kind",
)
RESUMES = counter(
    "signalling_resumes_total",
    "Requests to resume. result: complete; gap, the client missed messages; gone, the session had ended; failed, an "
    "error.",
    "result",
)
RECOVERIES = gauge("signalling_recoveries", "Sessions that are resuming.")
REJECTIONS = counter(
    "signalling_rejections_total", "Errors sent to clients, by client event and error code.", "event", "code"
)
EVENT_TOOK = histogram(
    "signalling_event_seconds",
    "Time until an event was answered; without relays.",
    "event",
)
SET_UP = histogram(
    "signalling_call_setup_seconds",
    "Time from call:initiate until the callee's devices were notified and callcore had replied.",
)
RELAYS = counter("signalling_relays_total", "Offers, answers and candidates accepted from clients.", "kind")
RESENT = counter("signalling_relays_resent_total", "Retransmissions of relays to callcore.")
GIVEN_UP = counter(
    "signalling_relays_given_up_total", "Relays that callcore has not acknowledged within ten seconds."
)
OUTBOX = gauge(
    "signalling_outbox_relays", "Relays in the send buffer: not acknowledged yet, or of the last seconds."
)
OUTBOX_MAX = gauge("signalling_outbox_relays_max", "Limit of signalling_outbox_relays.")
OUTBOX_BYTES = gauge("signalling_outbox_bytes", "Bytes of relays in the send buffer.")
OUTBOX_BYTES_MAX = gauge("signalling_outbox_bytes_max", "Limit of signalling_outbox_bytes.")
OUTBOX_UNACKED = gauge(
    "signalling_outbox_unacknowledged", "Relays in the send buffer that callcore has not acknowledged yet."
)
ACKS = gauge("signalling_acknowledgements_pending", "Acknowledgements of relays that clients wait for.")
UNREAD = gauge("signalling_unread_bytes", "Bytes that wait for clients to read them.")
UNREAD_MAX = gauge("signalling_unread_bytes_max", "Limit of signalling_unread_bytes: UNREAD_TOTAL_MB.")
UNREAD_CLIENTS = gauge("signalling_unread_clients", "Clients with unread bytes.")
BROKEN = counter(
    "signalling_connections_broken_total",
    "Connections closed because their clients do not read or answer. reason: unread, UNREAD_MAX_KB; unread_seconds; "
    "unread_total; ping_timeout, no answer to a ping.",
    "reason",
)
BROKEN_REASONS = ("unread", "unread_seconds", "unread_total", "ping_timeout")
ERRANDS = gauge(
    "signalling_errands", "Background requests to presence and callcore that have not succeeded yet."
)
ERRANDS_LOST = counter("signalling_errands_given_up_total", "Background requests that were given up.")
LEASE = gauge("signalling_lease_held", "1 while presence counts this gateway as alive.")
DRAINING = gauge("signalling_draining", "1 while the gateway closes its connections to stop.")
MEMBERS = gauge("signalling_members", "Live instances of a service that the gateway needs.", "service")

LIMITS = (
    "connections_per_address",
    "sockets_per_address",
    "unjoined",
    "join_timeout",
    "connections_per_user",
    *(f"rate_{kind.name.lower()}" for kind in EventClass),
    "rate_user_kb",
    "refusals",
    "candidates_per_call",
    "strikes",
    "sizes",
    "depth",
    "frame_size",
    "unread",
    "unread_seconds",
    "unread_total",
    "host",
    "origin",
    "cross_site",
)
"""Limits whose hits a gateway counts."""


def of_clients(clients: ConnectedClients, join_timeout: JoinTimeout) -> Reads:
    """Return the metrics of connections."""
    server, registry = clients.server, clients.registry

    def connections() -> dict[str, int]:
        websockets = len(server.websockets)
        return {"websocket": websockets, "polling": max(0, len(server.eio.sockets) - websockets)}

    return {
        CONNECTIONS: connections,
        UNJOINED: lambda: len(join_timeout),
        SOCKETS: lambda: len(registry),
        UNREAD: lambda: server.sender.unread()[0],
        UNREAD_MAX: lambda: server.unread_total.limit or 0,
        UNREAD_CLIENTS: lambda: server.sender.unread()[1],
        BROKEN: lambda: with_zeros(BROKEN_REASONS, server.sender.aborted),
        DRAINING: lambda: int(server.draining),
    }


def of_sessions(
    registry: Registry,
    join_service: JoinService,
    resuming: ResumingSessions,
    lease: GatewayLease,
    retrier: BackgroundRetrier,
) -> Reads:
    """Return the metrics of sessions, and of requests in the background."""
    return {
        SESSIONS: lambda: registry.sessions,
        JOINS: lambda: with_zeros(("new", "resumed", "continued"), join_service.joins),
        RESUMES: lambda: with_zeros(("complete", "gap", "gone", "failed"), join_service.resumes),
        RECOVERIES: lambda: len(resuming),
        LEASE: lambda: int(lease.held),
        ERRANDS: lambda: retrier.waiting,
        ERRANDS_LOST: lambda: retrier.given_up,
    }


def of_events(responder: Responder, dispatcher: Dispatcher, calls: CallEvents) -> Reads:
    """Return the metrics of client events."""
    return {
        REJECTIONS: lambda: responder.refused,
        EVENT_TOOK: lambda: {event.value: took for event, took in dispatcher.took.items()},
        SET_UP: lambda: calls.set_up,
    }


def of_relays(relays: RelayService) -> Reads:
    """Return the metrics of relays."""
    send_buffer = relays.send_buffer
    return {
        RELAYS: lambda: {event.value: count for event, count in relays.accepted.items()},
        RESENT: lambda: relays.resent,
        GIVEN_UP: lambda: relays.given_up,
        OUTBOX: lambda: send_buffer.count,
        OUTBOX_MAX: lambda: RELAYS_MAX,
        OUTBOX_BYTES: lambda: send_buffer.size,
        OUTBOX_BYTES_MAX: lambda: BYTES_MAX,
        OUTBOX_UNACKED: lambda: sum(window.unacknowledged for window in send_buffer),
        ACKS: lambda: len(relays.acks),
    }


def of_members(members: Membership, needed: tuple[str, ...]) -> Reads:
    """Return the metrics of the services that a gateway needs."""
    return {MEMBERS: lambda: {service: len(members.alive(service)) for service in needed}}
