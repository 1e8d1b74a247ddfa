"""Turns of calls that NATS took and passed on to nobody."""

import asyncio
from collections.abc import Callable

import pytest

from services.callcore import told
from services.callcore.acks import Acknowledger
from services.callcore.ledger import Ledger
from services.callcore.told import Told
from shared import subjects
from shared.bus import Bus
from shared.mailbox import Postman
from signalling.nats_server import EmbeddedNats
from tests.support.frozen import freeze

TURN = b'{"callId":"c","by":"alice","reason":"hangup"}'


async def _until(check: Callable[[], object], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.02)


async def test_what_was_on_its_way_when_nats_was_killed_is_told_again(
    nats_server: EmbeddedNats, nats_url: str, bus: Bus
) -> None:
    heard: list[bytes] = []
    gateway = await Bus.connect(nats_url, name="gateway")
    await gateway.subscribe_direct(
        subjects.deliver_all("gw"), lambda _s, _r, letter, _h: heard.append(letter)
    )
    await gateway.flush()

    async def doubt() -> None:
        gateway.publish(subjects.DOUBT)  # as gateways do

    gateway.on_reconnect.append(doubt)
    teller, acknowledger = Told(bus, Postman(bus)), Acknowledger(bus, Ledger(), "cc")
    await teller.start()
    acknowledger.start()
    try:
        teller.deliver("gw", "s", "call:accepted", TURN)
        await _until(lambda: heard)
        freeze(nats_server)
        teller.deliver("gw", "s", "call:ended", TURN)
        await asyncio.sleep(0.2)  # it has left
        nats_server.kill()
        await _until(lambda: not bus.connected and not gateway.connected)
        assert len(heard) == 1
        nats_server.start()
        await _until(lambda: len(set(heard)) == 2)
        accepted, again, ended = heard[:3]
        assert again == accepted, "as it was, and in order"
        assert ended.startswith(TURN[:-1])
    finally:
        await acknowledger.stop()
        await teller.stop()
        await gateway.close()


async def test_what_was_told_long_ago_is_not_told_again(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "KEEP_SECONDS", 0.5)
    monkeypatch.setattr(told, "GATHER_SECONDS", 0.05)
    heard: list[bytes] = []
    await bus.subscribe_direct(subjects.deliver_all("gw"), lambda _s, _r, letter, _h: heard.append(letter))
    teller = Told(bus, Postman(bus))
    await teller.start()
    bus.connected_since -= 10  # as if it had been there for long
    teller.deliver("gw", "s", "call:accepted", TURN)
    bus.publish(subjects.DOUBT)
    await _until(lambda: len(heard) == 2)
    await asyncio.sleep(0.6)
    bus.publish(subjects.DOUBT)
    await asyncio.sleep(0.3)
    assert len(heard) == 2
    await teller.stop()
