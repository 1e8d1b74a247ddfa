"""Records of what happened: each gets into the stream once, also when NATS was away, or knew of no stream."""

import asyncio
import json

import pytest

from shared.contracts.wire import Wire
from shared.messaging import event_log
from shared.messaging.event_log import EventLog
from shared.nats import streams
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.support.logged import Logged


async def make(bus: Bus) -> None:
    await streams.ensure_events(bus, replicas=1, max_age_hours=72, max_mb=1024)


async def recorded(bus: Bus) -> list[int]:
    """The numbers in the stream, in the order they came."""
    info = await streams.api(bus, "STREAM.INFO.EVENTS", {})
    last = info["state"]["last_seq"]
    stream = bus.client.jetstream()
    return [json.loads((await stream.get_msg("EVENTS", seq + 1)).data)["n"] for seq in range(last)]


class Numbered(Wire):
    n: int


def record(events: EventLog, number: int) -> None:
    events.record("event.call.x.ended", f"x.{number}", Numbered(n=number))


async def test_each_is_there_once_however_often_it_is_told(bus: Bus) -> None:
    await make(bus)
    events = EventLog(bus)
    for number in (1, 2, 1, 3, 2):
        record(events, number)
    await events.drain(5)
    assert await recorded(bus) == [1, 2, 3]


async def test_what_happens_before_there_is_a_stream_is_told_again(bus: Bus) -> None:
    events = EventLog(bus)
    record(events, 1)
    await asyncio.sleep(0.3)
    await make(bus)
    await events.drain(5)
    assert await recorded(bus) == [1]


async def test_what_happens_around_a_restart_of_nats_is_not_lost(nats_server: EmbeddedNats, bus: Bus) -> None:
    await make(bus)
    events = EventLog(bus)
    for number in range(50):
        record(events, number)
    await bus.flush()
    nats_server.kill()
    for number in range(50, 100):
        record(events, number)
    async with asyncio.timeout(10):
        while bus.connected:
            await asyncio.sleep(0.01)
    record(events, 100)
    nats_server.start()
    await events.drain(20)
    assert sorted(await recorded(bus)) == list(range(101))


async def test_what_is_not_acknowledged_in_time_is_sent_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "ACK_SECONDS", 0.2)
    heard: list[str] = []
    answering = False

    def hear(subject: str, reply: str, _payload: bytes, _head: bytes) -> None:
        heard.append(subject)
        if answering:
            bus.publish(reply, b'{"stream":"EVENTS","seq":1}')

    await bus.subscribe_direct("event.>", hear)
    events = EventLog(bus)
    record(events, 1)
    async with asyncio.timeout(5):
        while len(heard) < 3:
            await asyncio.sleep(0.01)
    answering = True
    await events.drain(5)
    count = len(heard)
    await asyncio.sleep(0.5)
    assert len(heard) == count, "acknowledged, and sent again"


async def test_what_cannot_be_recorded_is_given_up_and_too_much_refused(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(event_log, "TRY_SECONDS", 0.3)
    monkeypatch.setattr(event_log, "WAITING_MAX", 2)
    events = EventLog(bus)
    for number in range(3):
        record(events, number)
    assert logged.count("event dropped") == 1
    await events.drain(5)
    assert logged.count("event lost") == 2
