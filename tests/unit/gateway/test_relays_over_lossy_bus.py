"""Relays over everything that may go wrong with them: Hypothesis decides what is lost, late, or dead.

The numbers, flags and acknowledgements are the real ones (send window, sequence tracker, receive order). The world
around them is a model of what NATS promises: what one connection publishes to another arrives in order, or is lost
with either of them.
"""

from collections import deque
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.callcore.relay.sequence_tracker import SequenceCheck, SequenceTracker
from services.gateway.clients.registry import Socket
from services.gateway.relay.batch import Batch
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.send_buffer import GIVE_UP_SECONDS, SendBuffer
from services.gateway.relay.send_window import KEEP_SECONDS, OutstandingRelay, SendWindow
from shared import subjects
from shared.contracts.relays import LINE, Acks, stamped, without_first
from shared.subjects import receipt, receipt_of

STEP_SECONDS = 0.05
CALLCORES = ("cc-1", "cc-2")


class Message(NamedTuple):
    """A relay, or the letter it became."""

    payload: bytes
    reply: str


class World:
    """One sender, two callcores, one receiver."""

    def __init__(self) -> None:
        self.now = 0.0
        self.send_buffer = SendBuffer()
        self.window: SendWindow | None = None
        self.owner = "cc-1"
        self.sent = 0
        self.trackers = {name: SequenceTracker() for name in CALLCORES}
        self.relays: dict[str, deque[Message]] = {name: deque() for name in CALLCORES}
        self.letters: dict[str, deque[Message]] = {name: deque() for name in CALLCORES}
        self.acks: dict[str, deque[Acks]] = {name: deque() for name in CALLCORES}
        self.receive_order = ReceiveOrder()
        self.socket = Socket("sid", "eio")
        self.written: list[int] = []
        self.doubtful_since: float | None = None
        self.gathers = False
        """Whether relays join the one before them while that has not left."""
        self._batch: Batch | None = None
        self._seq = 0

    # --- the sending gateway, as in services/gateway/relay/{service,publisher,retransmitter}.py ---

    def send(self) -> None:
        window = self.send_buffer.get("s", "c")
        if window is None:
            window = self.window = self.send_buffer.open("s", "c", 1, self.now)
        if window.owner != self.owner:
            window.owner_changed(self.owner, 0)
        payload = b'{"n":%d}' % self.sent
        relay, flags = self.send_buffer.add(window, "ann", "bob", "ice:candidate", payload, self.now)
        self.sent += 1
        if flags is None:
            self.retransmit(window)
        else:
            self._publish(window, relay, flags)

    def burst(self, count: int) -> None:
        for _ in range(count):
            self.send()

    def _publish(self, window: SendWindow, relay: OutstandingRelay, flags: int) -> None:
        owner, attempt = window.sent(relay)
        relays, batch = self.relays[owner], self._batch
        if self.gathers and relays and batch is not None and batch.message is relays[-1].payload:
            joined = batch.joined(owner, relay, attempt, flags)
            if joined is not None:
                relays[-1] = Message(*joined)
                batch.join(relay, joined[0])
                return
        message = Message(relay.payload, receipt("g", "s", relay.number, attempt, flags))
        relays.append(message)
        self._batch = (
            Batch(owner, message.reply, relay, attempt, message.payload)
            if Batch.may_begin(relay, flags)
            else None
        )

    def retransmit(self, window: SendWindow) -> None:
        for relay, flags in window.retransmission_begun(self.now):
            self._publish(window, relay, flags)

    def tick(self) -> None:
        self.now += STEP_SECONDS
        if self.doubtful_since is not None and self.now > self.doubtful_since + KEEP_SECONDS / 2:
            self.doubt()
        if self.receive_order.take_missed() and self.window is not None:
            self.send_buffer.suspect_loss(self.window)
        for window in self.send_buffer.active(self.now):
            if window.owner != self.owner:
                window.owner_changed(self.owner, 0)
            window.timer_fired(self.now)
            if window.needs_retransmission:
                self.retransmit(window)
            assert not self.send_buffer.expire(window, self.now - GIVE_UP_SECONDS)
            self.send_buffer.trim(window, self.now)
        self.send_buffer.tidy(self.now)

    def doubt(self) -> None:
        self.doubtful_since = None
        for window in self.send_buffer:
            self.send_buffer.suspect_loss(window)

    def receive_acks(self, name: str) -> None:
        if self.acks[name]:
            acks = self.acks[name].popleft()
            for session, call, number, attempt in acks.done:
                if window := self.send_buffer.get(session, call):
                    window.acknowledged(number, attempt, self.now)
            for session, call in acks.gaps:
                if window := self.send_buffer.get(session, call):
                    window.gap_reported()

    # --- call control, as in services/callcore/relay/relay_router.py ---

    def pass_on(self, name: str) -> None:
        if self.relays[name]:
            message = self.relays[name].popleft()
            sequence_tracker, receipt = self.trackers[name], receipt_of(message.reply)
            key = (receipt.session, "c")
            check = sequence_tracker.check(key, receipt)
            if check in (SequenceCheck.NEXT, SequenceCheck.REPEAT):
                reply, payload = message.reply, message.payload
                if (
                    receipt.more
                    and check is SequenceCheck.NEXT
                    and (over := sequence_tracker.count_passed_on(key, receipt))
                ):
                    reply, payload = without_first(reply, payload, over)
                letters = []
                for line in payload.split(LINE):
                    self._seq += 1
                    letters.append(b'%b,"seq":%d}' % (line[:-1], self._seq))
                self.letters[name].append(Message(LINE.join(letters), reply + subjects.DELIVERY_LETTER))
                sequence_tracker.acknowledge(key, receipt)

    def tell(self, name: str) -> None:
        for _, acks in self.trackers[name].take_acks(name):
            self.acks[name].append(acks)

    # --- the receiving gateway ---

    def write(self, name: str) -> None:
        if self.letters[name]:
            message = self.letters[name].popleft()
            for line in message.payload.split(LINE):
                payload = self.receive_order.take(self.socket, "ice:candidate", line, message.reply)
                if payload:
                    assert stamped(payload) is None
                    self.written.append(int(payload[payload.index(b":") + 1 : payload.index(b",")]))

    # --- what goes wrong ---

    def kill(self, name: str) -> None:
        """What NATS has taken from it arrives all the same."""
        self.trackers[name] = SequenceTracker()
        self.relays[name].clear()

    def cut(self, name: str, left: int) -> None:
        """A callcore is cut off: what was on its way to and from it is lost, but for the oldest ``left``."""
        self._lose(name, left)
        self.doubtful_since = self.now

    def outage(self, left: int) -> None:
        for name in CALLCORES:
            self._lose(name, left)
        self.doubtful_since = self.now

    def _lose(self, name: str, left: int) -> None:
        channels: tuple[deque[Message] | deque[Acks], ...] = (
            self.relays[name], self.letters[name], self.acks[name],
        )  # fmt: skip
        for channel in channels:
            while len(channel) > left:
                channel.pop()

    def run(self) -> None:
        """Nothing goes wrong any more."""
        for _ in range(400):
            for name in CALLCORES:
                for _ in range(20):
                    self.pass_on(name)
                self.tell(name)
                for _ in range(20):
                    self.write(name)
                    self.receive_acks(name)
            self.tick()


_name = st.sampled_from(CALLCORES)
_step = st.one_of(
    st.tuples(st.just("send")),
    st.tuples(st.just("send")),
    st.tuples(st.just("burst"), st.integers(2, 5)),
    st.tuples(st.just("tick")),
    st.tuples(st.just("pass_on"), _name),
    st.tuples(st.just("pass_on"), _name),
    st.tuples(st.just("write"), _name),
    st.tuples(st.just("write"), _name),
    st.tuples(st.just("tell"), _name),
    st.tuples(st.just("receive_acks"), _name),
    st.tuples(st.just("kill"), _name),
    st.tuples(st.just("cut"), _name, st.integers(0, 3)),
    st.tuples(st.just("outage"), st.integers(0, 3)),
    st.tuples(st.just("owner"), _name),
    st.tuples(st.just("gather"), st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_step, max_size=80))
@example([("burst", 2), ("pass_on", "cc-1"), ("tell", "cc-1"), ("outage", 0), ("gather", True), ("send",)])
def test_every_relay_once_and_in_order(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for what, *arguments in steps:
        if what == "owner":
            world.owner = str(arguments[0])
        elif what == "gather":
            world.gathers = bool(arguments[0])
        else:
            getattr(world, str(what))(*arguments)
    world.run()
    assert world.written == list(range(world.sent))
    assert world.send_buffer.count == world.send_buffer.size == 0 and not list(world.send_buffer)
