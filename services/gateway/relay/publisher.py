"""Publish relays to the callcore that owns their call."""

import time

from services.gateway.relay.batch import Batch
from services.gateway.relay.send_window import OutstandingRelay, SendWindow
from shared import subjects
from shared.errors import Unavailable
from shared.messaging.membership import Membership
from shared.nats.connection import Bus

CALLCORE = "callcore"


class Publisher:
    """Publishes relays of send windows, new ones and retransmissions."""

    def __init__(self, instance: str, bus: Bus, members: Membership) -> None:
        self._instance = instance
        self._bus = bus
        self._members = members
        self._batch: Batch | None = None
        """The message of the candidate that was published last, while more candidates may join it."""
        self.resent = 0
        """Relays that were retransmitted."""

    def update_owner(self, window: SendWindow) -> None:
        """Look up the owner of a window's call, if the membership has changed since the last time."""
        generation = self._members.generation
        if window.generation != generation:
            window.owner_changed(self._members.owner(CALLCORE, window.token), generation)

    def publish(self, window: SendWindow, relay: OutstandingRelay, flags: int) -> bool:
        """Publish a relay, in one message with the candidate before it if that has not left yet.

        Return False if NATS is away; the window then requires a retransmission.
        """
        owner, attempt = window.sent(relay)
        subject, batch, message = f"relay.{owner}.{relay.tail}", self._batch, None
        try:
            if batch is not None and (joined := batch.joined(subject, relay, attempt, flags)) is not None:
                message = self._bus.amend(batch.message, subject, *joined)
            if batch is not None and message is not None:
                batch.join(relay, message)
            else:
                reply = subjects.receipt(self._instance, window.session, relay.number, attempt, flags)
                message = self._bus.publish(subject, relay.payload, reply)
                starts_batch = Batch.may_begin(relay, flags)
                self._batch = Batch(subject, reply, relay, attempt, message) if starts_batch else None
        except Unavailable:
            window.send_failed(relay)
            return False
        return True

    def retransmit(self, window: SendWindow) -> None:
        """Publish all outstanding relays of a window in order; none while there is no owner or NATS is away."""
        if window.owner is None or not self._bus.connected:
            return
        for relay, flags in window.retransmission_begun(time.monotonic()):
            if not self.publish(window, relay, flags):
                break
            self.resent += 1

    def drop_owner(self, callcore: str) -> None:
        """Count a callcore as dead until it announces itself again, so that other instances own its calls."""
        self._members.drop(CALLCORE, callcore)
