"""The metrics of call control, and where they are read."""

from services.callcore.calls.call_service import CallService
from services.callcore.calls.reconciler import Reconciler
from services.callcore.calls.stats import REASONS
from services.callcore.relay.relay_router import RelayRouter
from shared.messaging.policy_client import PolicyClient
from shared.observability.metrics import Reads, counter, gauge, histogram, with_zeros

PLACED = counter("signalling_calls_placed_total", "Calls that came about, that is, began to ring.", "type")
ACCEPTED = counter("signalling_calls_accepted_total", "Calls that were answered.")
ENDED = counter(
    "signalling_calls_ended_total",
    "Calls that ended. outcome: answered, unanswered; reason: one of the protocol's, other for clients' own words.",
    "outcome",
    "reason",
)
RANG = histogram("signalling_ring_seconds", "How long calls rang, by what came of it.", "outcome")
TALKED = histogram("signalling_call_seconds", "How long answered calls lasted.")
CALLS = gauge(
    "signalling_calls",
    "Live calls that this instance is in charge of, as the last sweep (SWEEP_SECONDS) found them; sum over instances.",
    "state",
)
SWEPT = counter(
    "signalling_swept_total",
    "What the sweep found left behind: a deadline missed, a session that is gone, a hold without a call.",
    "what",
)
LANES = gauge("signalling_lanes", "Calls whose relays this instance knows the way of; 50,000 at most.")
LINES = gauge("signalling_lane_lines", "Calls with relays that take the long way now.")
WAITING = gauge("signalling_lane_messages", "Messages that wait in these lines.")
SLOW = counter("signalling_lane_slow_relays_total", "Relays that took the long way.")
DROPPED = counter(
    "signalling_lane_dropped_relays_total",
    "Relays dropped because too many of a call waited; they come again.",
)
POLICY_SILENT = counter(
    "signalling_policy_unanswered_total", "Questions that the policy service did not answer in time."
)

LIMITS = ("rings_per_caller", "rings_per_callee", "ring_backoff", "rate_call_kb")
"""The limits that call control counts hits of."""


def of_callcore(
    control: CallService, relay_router: RelayRouter, sweep: Reconciler, policy: PolicyClient
) -> Reads:
    """What only call control has."""
    counts = control.counts
    endings = [("answered", "hangup"), *(("unanswered", reason) for reason in sorted(REASONS))]
    return {
        PLACED: lambda: with_zeros(("audio", "video"), counts.placed_by_type),
        ACCEPTED: lambda: counts.accepted,
        ENDED: lambda: with_zeros(endings, counts.ended),
        RANG: lambda: counts.rang,
        TALKED: lambda: counts.talked,
        CALLS: lambda: {state.value: count for state, count in sweep.calls.items()},
        SWEPT: lambda: sweep.swept,
        LANES: lambda: len(relay_router),
        LINES: lambda: relay_router.long_way.depths()[0],
        WAITING: lambda: relay_router.long_way.depths()[1],
        SLOW: lambda: relay_router.long_way.taken,
        DROPPED: lambda: relay_router.long_way.dropped,
        POLICY_SILENT: lambda: policy.unanswered,
    }
