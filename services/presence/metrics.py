"""The metrics of presence, and where they are read."""

from services.presence.grace_periods import GracePeriods
from services.presence.leases import Leases
from services.presence.notifier import Notifier
from shared.clock import now_ms
from shared.messaging.policy_client import PolicyClient
from shared.observability.metrics import Reads, counter, gauge, with_zeros

IN_GRACE = gauge(
    "signalling_sessions_in_grace",
    "Sessions whose transport broke and who may still come back. Sum over instances; one alone may be below zero.",
)
SESSIONS = counter(
    "signalling_session_changes_total",
    "What became of sessions. what: joined; resumed, from another socket; lost, the transport broke; left, or is gone.",
    "what",
)
EXPIRED = counter("signalling_graces_expired_total", "Sessions that did not come back in their grace.")
GATEWAYS_GONE = counter(
    "signalling_gateways_gone_total", "Gateways that were given up. how: left, in good order; died.", "how"
)
CONTACTS_SILENT = counter(
    "signalling_contacts_unanswered_total",
    "Questions who may see whom that the policy service did not answer in time.",
)

LIMITS = ("joins_per_user", "sessions_per_user")
"""The limits that presence counts hits of."""


def of_presence(notifier: Notifier, graces: GracePeriods, leases: Leases, contacts: PolicyClient) -> Reads:
    """What only presence has."""
    return {
        IN_GRACE: lambda: graces.in_grace.count(now_ms()),
        SESSIONS: lambda: with_zeros(("joined", "resumed", "lost", "left"), notifier.told),
        EXPIRED: lambda: graces.expired,
        GATEWAYS_GONE: lambda: leases.gone,
        CONTACTS_SILENT: lambda: contacts.unanswered,
    }
