"""Declare the metrics that every service has: NATS, requests, the store, the event loop."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain

from shared import subjects
from shared.messaging.event_log import EventLog
from shared.messaging.rpc import RpcClient, RpcServer
from shared.messaging.timers import Timers
from shared.nats.compat.client import RECONNECT, TASKS
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from shared.observability.limit_hits import LimitHits
from shared.observability.loop_lag import LoopLag
from shared.observability.metrics import Reads, counter, gauge, histogram, with_zeros
from shared.service.runner import distribution_version

INFO = gauge(
    "signalling_info",
    "Always 1. Labels: the service, its version, and its instance name in logs and subjects.",
    "service",
    "version",
    "name",
)
READY = gauge("signalling_ready", "1 while /readyz says that the service is ready.")
LOOP_LAG = histogram(
    "signalling_event_loop_lag_seconds",
    "Lag of the event loop, measured every 100 ms.",
)
NATS_CONNECTED = gauge(
    "signalling_nats_connected", "1 while the service is connected to NATS and NATS answers."
)
NATS_RECONNECTS = counter("signalling_nats_reconnects_total", "Connections to NATS after the first.")
NATS_HANGS = counter(
    "signalling_nats_hangs_total",
    "Times that NATS did not answer although the connection was open (gateway).",
)
NATS_TASKS_FAILED = counter(
    "signalling_nats_task_failures_total",
    "Times that a task of the NATS client failed, so that the connection was opened again.",
    "kind",
)
NATS_FULL = counter(
    "signalling_jetstream_refusals_total",
    "Writes that JetStream refused because a stream was full. what: the stream.",
    "what",
)
STREAMS = (
    f"KV_{subjects.BUCKET_SESSIONS}",
    f"KV_{subjects.BUCKET_CALLS}",
    subjects.STREAM_DELIVER,
    subjects.STREAM_EVENTS,
    subjects.STREAM_DEADLINES,
)
"""The streams that may be full."""
NATS_ERRORS = counter(
    "signalling_nats_errors_total",
    "Errors of the NATS client: slow_consumer, a message dropped because too many waited; other.",
    "error",
)
NATS_MESSAGES = counter("signalling_nats_messages_total", "Messages to and from NATS.", "direction")
NATS_BYTES = counter("signalling_nats_bytes_total", "Bytes of these.", "direction")
NATS_ASKING = gauge("signalling_nats_requests_in_flight", "Requests to NATS or other services under way.")
NATS_UNSENT = gauge("signalling_nats_unsent_bytes", "Bytes not yet sent to NATS.")
NATS_UNHANDLED = gauge("signalling_nats_pending_messages", "Messages from NATS that wait for their handler.")
NATS_UNHANDLED_BYTES = gauge("signalling_nats_pending_bytes", "Bytes of these.")
ASKED = histogram(
    "signalling_request_seconds",
    "Time until another service answered, measured by the requester, with both tries.",
    "service",
    "verb",
)
ASKED_AGAIN = counter(
    "signalling_request_retries_total", "Requests tried again because no answer came.", "service", "verb"
)
UNANSWERED = counter("signalling_request_failures_total", "Requests without an answer.", "service", "verb")
LIMITS_HIT = counter(
    "signalling_limits_hit_total",
    "Limits that were hit: the names of the table in SECURITY.md.",
    "limit",
)
REQUESTS = counter(
    "signalling_requests_total",
    "Requests to callcore or presence. outcome: ok; refused, an error of the client; error, of the service; late, "
    "the requester had stopped waiting.",
    "verb",
    "outcome",
)
REQUEST_TOOK = histogram(
    "signalling_handling_seconds", "Time that the service took to answer these requests.", "verb"
)
REQUESTS_IN_HAND = gauge("signalling_requests_in_hand", "Requests under way in the service; 512 at most.")
KV_TOOK = histogram(
    "signalling_kv_seconds",
    "How long a bucket took to answer callcore or presence; operation: read, write.",
    "bucket",
    "operation",
)
KV_CONFLICTS = counter(
    "signalling_kv_conflicts_total", "Writes refused because another instance wrote first.", "bucket"
)
KV_RETRIES = counter("signalling_kv_retries_total", "Decisions made again after such a refusal.", "bucket")
RECORDS_WAITING = gauge(
    "signalling_events_waiting", "Records of callcore and presence for EVENTS without acknowledgement."
)
RECORDS_LOST = counter(
    "signalling_events_lost_total", "Records for EVENTS that were dropped, refused or given up."
)
DEADLINES = counter(
    "signalling_deadlines_total",
    "Deadlines that came to callcore (ring) or presence (grace, lease). outcome: done; failed, and comes again.",
    "kind",
    "outcome",
)


def of_process(
    service: str,
    instance: str,
    bus: Bus,
    lag: LoopLag,
    *,
    ready: Callable[[], bool],
    clients: Iterable[RpcClient],
    hits: LimitHits,
    limits: Iterable[str],
) -> Reads:
    """Return the metrics of every service. ``limits``: the names of its limits."""
    asking, known = tuple(clients), tuple(limits)
    return {
        INFO: lambda: {(service, distribution_version(), instance): 1},
        READY: lambda: int(ready()),
        LOOP_LAG: lambda: lag.late,
        NATS_CONNECTED: lambda: int(bus.connected),
        NATS_RECONNECTS: lambda: bus.client.stats["reconnects"],
        NATS_HANGS: lambda: bus.hung,
        NATS_TASKS_FAILED: lambda: with_zeros((*TASKS, RECONNECT), bus.broken),
        NATS_FULL: lambda: with_zeros(STREAMS, bus.full.refused),
        NATS_ERRORS: lambda: with_zeros(("slow_consumer", "other"), bus.errors),
        NATS_MESSAGES: lambda: {"in": bus.client.stats["in_msgs"], "out": bus.client.stats["out_msgs"]},
        NATS_BYTES: lambda: {"in": bus.client.stats["in_bytes"], "out": bus.client.stats["out_bytes"]},
        NATS_ASKING: lambda: bus.asking,
        NATS_UNSENT: lambda: bus.unsent,
        NATS_UNHANDLED: lambda: bus.unhandled()[0],
        NATS_UNHANDLED_BYTES: lambda: bus.unhandled()[1],
        # No two clients of a process ask the same.
        ASKED: lambda: dict(chain.from_iterable(client.answered.items() for client in asking)),
        ASKED_AGAIN: lambda: _sum(client.again for client in asking),
        UNANSWERED: lambda: _sum(client.unanswered for client in asking),
        LIMITS_HIT: lambda: with_zeros(known, hits.counts),
    }


def _sum(counts: Iterable[Counter[tuple[str, str]]]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for each in counts:
        total.update(each)
    return total


def of_server(server: RpcServer) -> Reads:
    """Return the metrics of a service that answers requests."""
    tallies = server.tallies
    return {
        REQUESTS: lambda: {
            (verb, outcome): count
            for verb, tally in tallies.items()
            for outcome, count in (
                ("ok", tally.ok),
                ("refused", tally.refused),
                ("error", tally.errors),
                ("late", tally.late),
            )
        },
        REQUEST_TOOK: lambda: {verb: tally.took for verb, tally in tallies.items()},
        REQUESTS_IN_HAND: lambda: server.in_hand,
    }


def of_buckets(*buckets: Bucket) -> Reads:
    """Return the metrics of the buckets that a service uses."""
    return {
        KV_TOOK: lambda: {
            (bucket.name, operation): took for bucket in buckets for operation, took in bucket.took.items()
        },
        KV_CONFLICTS: lambda: {bucket.name: bucket.conflicts for bucket in buckets},
        KV_RETRIES: lambda: {bucket.name: bucket.retries for bucket in buckets},
    }


def of_recorder(event_log: EventLog) -> Reads:
    """Return the metrics of the event log."""
    return {RECORDS_WAITING: lambda: event_log.waiting, RECORDS_LOST: lambda: event_log.lost}


def of_deadlines(*deadlines: Timers) -> Reads:
    """Return the metrics of deadlines."""
    return {
        DEADLINES: lambda: {
            (kind.kind, outcome): count
            for kind in deadlines
            for outcome, count in (("done", kind.done), ("failed", kind.failed))
        }
    }
