"""Define the metrics of presence, and read their values."""

from services.presence.grace_periods import GracePeriods
from services.presence.leases import Leases
from services.presence.notifier import Notifier
from shared.clock import now_ms
from shared.messaging.policy_client import PolicyClient
from shared.observability.metrics import Reads, counter, gauge, with_zeros

IN_GRACE = gauge(
    "signalling_sessions_in_grace",
    "Sessions in their grace period, which the client may resume. Sum over instances; one alone may be below zero.",
)
SESSIONS = counter(
    "signalling_session_changes_total",
    "Changes of sessions. what: joined; resumed, from another socket; lost, the transport broke; left, or is gone.",
    "what",
)
EXPIRED = counter("signalling_graces_expired_total", "Sessions that were not resumed in their grace period.")
GATEWAYS_GONE = counter(
    "signalling_gateways_gone_total", "Gateways whose lease ended. how: left, in good order; died.", "how"
)
CONTACTS_SILENT = counter(
    "signalling_contacts_unanswered_total",
    "Requests whether a user may see another that the policy service did not answer in time.",
)

LIMITS = ("joins_per_user", "sessions_per_user")
"""The limits whose hits presence counts."""


def of_presence(notifier: Notifier, graces: GracePeriods, leases: Leases, contacts: PolicyClient) -> Reads:
    """Return the readers of the metrics that only presence has."""
    return {
        IN_GRACE: lambda: graces.in_grace.count(now_ms()),
        SESSIONS: lambda: with_zeros(("joined", "resumed", "lost", "left"), notifier.changes),
        EXPIRED: lambda: graces.expired,
        GATEWAYS_GONE: lambda: leases.gone,
        CONTACTS_SILENT: lambda: contacts.unanswered,
    }
