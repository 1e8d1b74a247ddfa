"""Count calls by outcome: each transition once, on the instance that stored it."""

from collections import Counter

from services.callcore.state.model import Call, Reason, State
from shared.observability.metrics import Histogram

RANG_BOUNDS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0)
TALKED_BOUNDS = (1.0, 5.0, 15.0, 30.0, 60.0, 180.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
REASONS = frozenset(reason.value for reason in Reason if reason is not Reason.VOID) | {
    "busy", "ice_failed", "ice_timeout", "media_failed", "server_shutdown",
}  # fmt: skip
"""The reasons that are counted by name; a client's own words are ``other``."""


class CallStats:
    """Counts of calls by outcome. Times are in seconds."""

    def __init__(self) -> None:
        self.placed_by_type: Counter[str] = Counter()
        self.accepted = 0
        self.ended: Counter[tuple[str, str]] = Counter()
        """(``answered`` or ``unanswered``, reason)"""
        self.rang = {"answered": Histogram(RANG_BOUNDS), "unanswered": Histogram(RANG_BOUNDS)}
        self.talked = Histogram(TALKED_BOUNDS)

    def count_placed(self, call: Call) -> None:
        """Count a call that was created."""
        self.placed_by_type[call.call_type] += 1

    def count_transition(self, before: State, call: Call) -> None:
        """Count the transition of a call from the state ``before``, once it is stored."""
        if call.state is before:
            return
        if call.state is State.ACCEPTED and call.accepted_at is not None:
            self.accepted += 1
            self.rang["answered"].observe((call.accepted_at - call.created_at) / 1000)
        elif call.state is State.ENDED and call.ended_at is not None:
            self._ended(call, call.ended_at)

    def _ended(self, call: Call, at: int) -> None:
        reason = call.reason if call.reason in REASONS else "other"
        if call.accepted_at is not None:
            self.ended["answered", reason] += 1
            self.talked.observe((at - call.accepted_at) / 1000)
        else:
            self.ended["unanswered", reason] += 1
            self.rang["unanswered"].observe((at - call.created_at) / 1000)
