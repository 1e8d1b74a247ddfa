"""Relays that are refused, doubted or not acknowledged; without NATS, by a clock that the test moves."""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.clients.registry import Registry
from services.gateway.relay import feedback, publisher, retransmitter, service
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.relay.send_buffer import GIVE_UP_SECONDS
from services.gateway.relay.send_window import AGAIN_SECONDS, RESEND_SECONDS
from services.gateway.relay.service import RelayService
from shared import subjects
from shared.contracts.client import Event
from shared.contracts.relays import Acks
from shared.errors import InvalidState, ReceiverNotFound, Unavailable
from shared.ids import encode

GATEWAY, OWNER = "gw", "cc-1"


class FakeBus:
    """Notes what is published, and hands over what the test says that others have published."""

    def __init__(self) -> None:
        self.connected = True
        self.on_reconnect: list[Any] = []
        self.published: list[tuple[str, bytes, str]] = []
        self._direct: dict[str, Any] = {}

    async def subscribe_direct(self, subject: str, handler: Any) -> None:
        self._direct[subject] = handler

    async def subscribe(self, subject: str, handler: Any) -> None:
        self._direct[subject] = lambda *_: asyncio.ensure_future(handler(None))

    def publish(self, subject: str, payload: bytes = b"", reply: str = "", *_: Any) -> bytes:
        if not self.connected:
            raise Unavailable
        self.published.append((subject, payload, reply))
        return payload

    def amend(self, *_: Any) -> None:
        """What was published has left."""

    def hear(self, filter_: str, subject: str, payload: bytes = b"", head: bytes = b"") -> None:
        self._direct[filter_](subject, "", payload, head)


class FakeReplies:
    """Notes what clients are told."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def refuse(self, _asked: Any, error: Exception) -> None:
        self.refused.append(type(error).__name__)

    def ok(self, _asked: Any, **_: Any) -> None:
        """It worked."""


class World:
    """The relays of one gateway, of one session, to one callcore."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.bus, self.replies, self.registry = FakeBus(), FakeReplies(), Registry()
        self.dropped: list[str] = []
        members = SimpleNamespace(
            generation=1, owner=lambda *_: OWNER, drop=lambda _, name: self.dropped.append(name)
        )
        self.relays = RelayService(
            GATEWAY,
            *(self.bus, members, self.registry, self.replies, None, ReceiveOrder()),  # type: ignore[arg-type]
            ack_seconds=5.0,
        )
        self.socket = self.registry.add("sid", "eio")
        self.registry.bind(self.socket, "ann", "s")

    def send(self, call: str, n: int = 0) -> int:
        """The client sends an offer; the number of the relay."""
        assert self.relays.try_send(self.socket, Event.OFFER, "bob", call, b'{"n":%d}' % n)
        window = self.relays.send_buffer.get("s", encode(call))
        assert window is not None
        return window.last_number

    def acknowledge(self, call: str, number: int, attempt: int = 0) -> None:
        acks = Acks(by=OWNER, done=(("s", encode(call), number, attempt),), gaps=())
        self.bus.hear(subjects.acks(GATEWAY), subjects.acks(GATEWAY), acks.dump())

    def refuse(self, number: int, error: Exception, *, flags: str) -> None:
        assert isinstance(error, (InvalidState, ReceiverNotFound))
        wire = json.dumps({**error.to_wire(), "event": "call:offer"}).encode()
        subject = subjects.receipt(GATEWAY, "s", number, *subjects.parse_flags(flags))
        self.bus.hear(subjects.receipt_all(GATEWAY), subject, wire)

    async def doubt(self) -> None:
        """Somebody was cut off from NATS."""
        self.bus.hear(subjects.DOUBT, subjects.DOUBT)
        await self.ticks()

    def sent(self, call: str) -> list[bytes]:
        """The payloads that were published for a call so far, void ones too; they count once."""
        payloads = [payload for subject, payload, _ in self.bus.published if f".{encode(call)}." in subject]
        self.bus.published.clear()
        return payloads

    async def ticks(self) -> None:
        """Have the flows looked after a few times."""
        for _ in range(10):
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(retransmitter, "_TICK_SECONDS", 0)
    world = World()
    for module in (publisher, feedback, service, retransmitter):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: world.now))
    await world.relays.start()
    yield world
    await world.relays.stop(0)


async def test_what_was_refused_is_not_sent_again_on_doubt(world: World) -> None:
    number = world.send("c1")
    assert len(world.sent("c1")) == 1
    world.refuse(number, InvalidState(), flags="0s")
    world.acknowledge("c1", number)
    await world.doubt()
    assert not any(world.sent("c1")), (
        "its number comes again, so that the order shows no gap, and nothing else"
    )
    assert world.replies.refused == ["InvalidState"]


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_what_may_have_been_passed_on_is_sent_again_on_doubt_and_not_refused(
    world: World, acknowledged: bool
) -> None:
    number = world.send("c1")
    if acknowledged:
        world.acknowledge("c1", number)
    world.sent("c1")
    await world.doubt()
    assert len(world.sent("c1")) == 1
    world.refuse(number, ReceiverNotFound(), flags="1sa")
    assert not world.replies.refused, "it was passed on before; its call is over by now"


async def test_one_doubt_after_the_other_is_one(world: World) -> None:
    world.send("c1")
    world.sent("c1")
    for _ in range(3):
        await world.doubt()
    assert len(world.sent("c1")) == 1
    world.now += AGAIN_SECONDS
    await world.ticks()
    assert len(world.sent("c1")) == 1, "the later ones were not forgotten"


async def test_a_gateway_that_was_cut_off_doubts_at_once(world: World) -> None:
    """What it published just before may be lost, whatever it has doubted a moment ago."""
    world.send("c1")
    await world.doubt()
    world.sent("c1")
    for hook in world.bus.on_reconnect:
        await hook()
    assert [subject for subject, *_ in world.bus.published] == [subjects.DOUBT], "others hear of it"
    await world.ticks()
    assert len(world.sent("c1")) == 1


async def test_a_callcore_that_acknowledges_other_flows_is_not_dropped_for_one_that_stalls(
    world: World,
) -> None:
    world.send("c1")
    other = world.send("c2")
    world.now += RESEND_SECONDS
    world.acknowledge("c2", other)
    await world.ticks()
    assert len(world.sent("c1")) == 1 + 1, "sent again"
    other = world.send("c2")
    world.acknowledge("c2", other)
    world.now += AGAIN_SECONDS + 0.01
    await world.ticks()
    assert world.dropped == []


async def test_a_callcore_that_acknowledges_nothing_is_dropped(world: World) -> None:
    world.send("c1")
    world.send("c2")
    world.now += RESEND_SECONDS
    await world.ticks()
    assert world.dropped == []
    world.now += AGAIN_SECONDS + 0.01
    await world.ticks()
    assert set(world.dropped) == {OWNER}


async def test_a_callcore_that_asks_for_what_it_missed_is_not_dropped(world: World) -> None:
    number = world.send("c1")
    world.now += RESEND_SECONDS
    gaps = Acks(by=OWNER, done=(), gaps=(("s", encode("c1")),))
    world.bus.hear(subjects.acks(GATEWAY), subjects.acks(GATEWAY), gaps.dump())
    world.sent("c1")
    world.now += 0.1
    await world.ticks()
    assert len(world.sent("c1")) == 1
    world.now += AGAIN_SECONDS + 0.01
    await world.ticks()
    assert world.dropped == []
    world.acknowledge("c1", number, attempt=1)
    window = world.relays.send_buffer.get("s", encode("c1"))
    assert window is not None and not window.has_outstanding


async def test_a_relay_that_is_too_old_is_given_up_once(world: World) -> None:
    world.send("c1")
    world.bus.connected = False
    world.now += GIVE_UP_SECONDS + 0.1
    await world.ticks()
    assert world.replies.refused == ["Unavailable"]
    world.bus.connected = True
    world.sent("c1")
    await world.doubt()
    assert not any(world.sent("c1")) and world.replies.refused == ["Unavailable"]
