"""Define the metrics of call control, and read their values."""

from services.callcore.calls.reconciler import Reconciler
from services.callcore.calls.stats import REASONS, CallStats
from services.callcore.relay.route_cache import RouteCache
from services.callcore.relay.slow_path import SlowPath
from shared.messaging.policy_client import PolicyClient
from shared.observability.metrics import Reads, counter, gauge, histogram, with_zeros

PLACED = counter("signalling_calls_placed_total", "Calls that were created, that is, began to ring.", "type")
ACCEPTED = counter("signalling_calls_accepted_total", "Calls that were answered.")
ENDED = counter(
    "signalling_calls_ended_total",
    "Calls that ended. outcome: answered, unanswered; reason: one of the protocol's, other for clients' own words.",
    "outcome",
    "reason",
)
RANG = histogram("signalling_ring_seconds", "Seconds that calls rang, by outcome.", "outcome")
TALKED = histogram("signalling_call_seconds", "Seconds that answered calls lasted.")
CALLS = gauge(
    "signalling_calls",
    "Live calls that this instance owned in the last reconciliation (SWEEP_SECONDS); sum over instances.",
    "state",
)
SWEPT = counter(
    "signalling_swept_total",
    "Reconciled: a ring deadline missed, a call whose session is gone, a reservation (hold) without a call.",
    "what",
)
LANES = gauge("signalling_lanes", "Calls in the route cache of this instance; 50,000 at most.")
LINES = gauge("signalling_lane_lines", "Calls with a queue on the slow path of relays.")
WAITING = gauge("signalling_lane_messages", "Messages in these queues.")
SLOW = counter("signalling_lane_slow_relays_total", "Relays that took the slow path.")
DROPPED = counter(
    "signalling_lane_dropped_relays_total",
    "Relays dropped because the queue of their call was full; gateways retransmit them.",
)
POLICY_SILENT = counter(
    "signalling_policy_unanswered_total", "Requests that the policy service did not answer in time."
)

LIMITS = ("rings_per_caller", "rings_per_callee", "ring_backoff", "rate_call_kb")
"""The limits whose hits call control counts."""


def of_callcore(
    stats: CallStats,
    route_cache: RouteCache,
    slow_path: SlowPath,
    reconciler: Reconciler,
    policy: PolicyClient,
) -> Reads:
    """Return the readers of the metrics that only call control has."""
    endings = [("answered", "hangup"), *(("unanswered", reason) for reason in sorted(REASONS))]
    return {
        PLACED: lambda: with_zeros(("audio", "video"), stats.placed_by_type),
        ACCEPTED: lambda: stats.accepted,
        ENDED: lambda: with_zeros(endings, stats.ended),
        RANG: lambda: stats.rang,
        TALKED: lambda: stats.talked,
        CALLS: lambda: {state.value: count for state, count in reconciler.calls.items()},
        SWEPT: lambda: reconciler.repaired,
        LANES: lambda: len(route_cache),
        LINES: lambda: slow_path.depths()[0],
        WAITING: lambda: slow_path.depths()[1],
        SLOW: lambda: slow_path.processed,
        DROPPED: lambda: slow_path.dropped,
        POLICY_SILENT: lambda: policy.unanswered,
    }
