"""Publishing relays to whoever is in charge of their call now."""

import time

from services.gateway.relay.batch import Batch
from services.gateway.relay.send_window import OutstandingRelay, SendWindow
from shared import subjects
from shared.errors import Unavailable
from shared.messaging.membership import Membership
from shared.nats.connection import Bus

CALLCORE = "callcore"


class Publisher:
    """Publishes what is in flows: what is new, and again what is not acknowledged."""

    def __init__(self, instance: str, bus: Bus, members: Membership) -> None:
        self._instance = instance
        self._bus = bus
        self._members = members
        self._bundle: Batch | None = None
        """The candidate that was published last, while another one may join it."""
        self.resent = 0
        """Relays that were sent again."""

    def look(self, flow: SendWindow) -> None:
        """Find out who is in charge of a flow's call now; if that has changed, what is in hand goes there first."""
        if flow.generation != self._members.generation:
            flow.generation = self._members.generation
            owner = self._members.owner(CALLCORE, flow.token)
            if owner is None or (owner != flow.owner and flow.waiting):
                flow.behind = True
            flow.owner = owner

    def publish(self, flow: SendWindow, sent: OutstandingRelay, marks: str) -> None:
        """Publish a relay, with the one before it if that has not left yet. Raises :class:`Unavailable`."""
        subject, bundle, message = f"relay.{flow.owner}.{sent.tail}", self._bundle, None
        if bundle is not None and (joined := bundle.joined(subject, sent, marks)) is not None:
            message = self._bus.amend(bundle.message, subject, *joined)
        if bundle is not None and message is not None:
            bundle.join(sent, message)
        else:
            reply = subjects.receipt(self._instance, flow.session, sent.number, marks)
            message = self._bus.publish(subject, sent.payload, reply)
            may_begin = Batch.may_begin(sent, marks)
            self._bundle = Batch(subject, reply, sent, marks, message) if may_begin else None
        if sent.first < 0:
            sent.first = flow.attempt

    def again(self, flow: SendWindow) -> None:
        """Publish all that is not acknowledged, in order, as far as that can be done now."""
        if flow.owner is None or not self._bus.connected:
            return
        flow.begin(time.monotonic())
        follows = False
        try:
            for before, sent in flow.after(flow.acked):
                self.publish(flow, sent, flow.marks(sent, before, follows=follows))
                follows = True
                self.resent += 1
        except Unavailable:
            flow.behind = True

    def gone(self, callcore: str) -> None:
        """An instance is not there, or does not work: until it is heard again, others are in charge."""
        self._members.drop(CALLCORE, callcore)
