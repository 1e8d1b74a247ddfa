"""A gateway that loses its connection to NATS, alone or with everybody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from services.callcore.notify.redelivery import RedeliveryBuffer
from services.callcore.relay.ack_batcher import AckBatcher
from services.callcore.relay.sequence_tracker import SequenceTracker
from shared import subjects
from shared.messaging.mailbox import MailboxPublisher
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.integration.gateway.conftest import GATEWAY, Connect, Start
from tests.support.hanging_nats import freeze
from tests.support.proxy import Proxy
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.timeout(60)

KEEP_SECONDS = 1.0


@pytest_asyncio.fixture
async def way(nats_url: str) -> AsyncIterator[Proxy]:
    """The network between the gateway and NATS; all others have their own."""
    proxy = Proxy(urlsplit(nats_url).port or 0)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest_asyncio.fixture
async def notifier(bus: Bus) -> AsyncIterator[RedeliveryBuffer]:
    """The redelivery buffer of a callcore, which reports a suspect loss when its own connection was lost."""
    async with redelivering(bus) as notifier:
        yield notifier


@pytest_asyncio.fixture
async def brief(bus: Bus) -> AsyncIterator[RedeliveryBuffer]:
    """The same, which keeps events for a short time only."""
    async with redelivering(bus, keep_seconds=KEEP_SECONDS, gather_seconds=0.05) as notifier:
        yield notifier


@asynccontextmanager
async def redelivering(bus: Bus, **limits: Any) -> AsyncIterator[RedeliveryBuffer]:
    notifier, acknowledger = (
        RedeliveryBuffer(bus, MailboxPublisher(bus), **limits),
        AckBatcher(bus, SequenceTracker(), "cc"),
    )
    await notifier.start()
    acknowledger.start()
    yield notifier
    await acknowledger.stop()
    await notifier.stop()


def deliver(notifier: RedeliveryBuffer, client: RawClient, event: str, call: str = "c") -> None:
    payload = b'{"callId":"%b","by":"alice"}' % call.encode()
    notifier.deliver(GATEWAY, f"s-{client.socket_id}", event, payload)


async def connected(bus: Bus) -> None:
    async with asyncio.timeout(15):
        while not bus.connected:
            await asyncio.sleep(0.02)


async def test_a_gateway_that_was_cut_off_has_all_gateways_suspect_loss(
    bus: Bus, way: Proxy, gateway: Start
) -> None:
    """Nobody else has noticed: what was on its way to the gateway, and from it, is lost unless it says so."""
    await gateway(nats_url=way.url.replace("http", "nats"))
    doubts = asyncio.Event()

    async def on_doubt(_: Msg) -> None:
        doubts.set()

    await bus.subscribe(subjects.DOUBT, on_doubt)
    await bus.flush()
    way.cut()
    await asyncio.wait_for(doubts.wait(), 10)
    assert bus.connected


async def test_messages_to_a_gateway_that_was_cut_off_are_redelivered(
    bus: Bus, way: Proxy, gateway: Start, connect: Connect, notifier: RedeliveryBuffer
) -> None:
    url = await gateway(nats_url=way.url.replace("http", "nats"))
    bob = await connect(url, "bob")
    deliver(notifier, bob, "call:incoming")
    await bob.expect("call:incoming")
    way.half_open()
    deliver(notifier, bob, "call:ended")
    await asyncio.sleep(0.1)  # it has left, and gets stuck on the way
    way.cut()
    await bob.expect("call:ended")
    await bob.quiet()


async def test_messages_in_flight_when_nats_is_killed_are_redelivered(
    nats_server: EmbeddedNats, bus: Bus, gateway: Start, connect: Connect, notifier: RedeliveryBuffer
) -> None:
    bob = await connect(await gateway(), "bob")
    deliver(notifier, bob, "call:incoming")
    await bob.expect("call:incoming")
    freeze(nats_server)
    deliver(notifier, bob, "call:accepted")
    deliver(notifier, bob, "call:ended")
    await asyncio.sleep(0.2)  # they have left
    nats_server.kill()
    nats_server.start()
    await bob.expect("call:ended")
    events = [received.event for received in bob.inbox.all if received.event.startswith("call:")]
    assert events == ["call:incoming", "call:accepted", "call:ended"], "once each, and in order"


@pytest.mark.parametrize("told_meanwhile", [False, True])
async def test_call_events_before_a_long_outage_are_redelivered(
    nats_server: EmbeddedNats, bus: Bus, gateway: Start, connect: Connect, brief: RedeliveryBuffer,
    told_meanwhile: bool,
) -> None:  # fmt: skip
    """``told_meanwhile``: something else is told after NATS is back, before what may be lost is told again."""
    bob = await connect(await gateway(), "bob")
    freeze(nats_server)
    deliver(brief, bob, "call:ended")
    await asyncio.sleep(0.1)  # it has left
    nats_server.kill()
    await asyncio.sleep(2 * KEEP_SECONDS)
    nats_server.start()
    if told_meanwhile:
        await connected(bus)
        deliver(brief, bob, "call:incoming", "another")
    ended = await bob.expect("call:ended")
    assert ended["callId"] == "c"


async def test_old_messages_are_not_redelivered(bus: Bus, brief: RedeliveryBuffer) -> None:
    heard: list[bytes] = []
    await bus.subscribe_direct(subjects.deliver_all(GATEWAY), lambda _s, _r, letter, _h: heard.append(letter))
    await asyncio.sleep(2 * KEEP_SECONDS)  # an instance that has just connected remembers all
    for n in range(2):
        brief.deliver(GATEWAY, "s", "call:accepted", b'{"callId":"c%d"}' % n)
        await asyncio.sleep(n * KEEP_SECONDS + 0.1)
    bus.publish(subjects.DOUBT)
    await asyncio.sleep(0.3)
    assert len(heard) == 2
    brief.deliver(GATEWAY, "s", "call:accepted", b'{"callId":"c3"}')
    bus.publish(subjects.DOUBT)
    async with asyncio.timeout(5):
        while len(heard) < 4:
            await asyncio.sleep(0.02)
    assert heard[2] == heard[3], "as it was, with the seq that it had"


async def test_the_redelivery_buffer_is_bounded(bus: Bus) -> None:
    notifier, heard = RedeliveryBuffer(bus, MailboxPublisher(bus), keep_max=3, gather_seconds=0.05), []
    await bus.subscribe_direct(subjects.deliver_all(GATEWAY), lambda _s, _r, letter, _h: heard.append(letter))
    await notifier.start()
    for n in range(5):
        notifier.deliver(GATEWAY, "s", "call:accepted", b'{"callId":"c%d"}' % n)
    bus.publish(subjects.DOUBT)
    async with asyncio.timeout(5):
        while len(heard) < 8:
            await asyncio.sleep(0.02)
    assert heard[5:] == heard[2:5], "the last ones"
    await notifier.stop()
