"""Reading a mailbox into which something is still on its way."""

import asyncio

import pytest

from shared import mailbox, streams, subjects
from shared.bus import Bus
from shared.errors import Unavailable
from shared.mailbox import Postman
from signalling.nats_server import EmbeddedNats

SECONDS = 0.5


async def _make(bus: Bus) -> None:
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)


async def test_it_is_read_up_to_what_was_sent(
    nats_server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that is slow: what was sent before reading began gets there only later."""
    await _make(bus)
    late: list[tuple[str, bytes]] = []
    with monkeypatch.context() as slow:
        slow.setattr(bus, "publish", lambda subject, payload, *_: late.append((subject, payload)))
        Postman(bus).deliver("gw", "s", "call:ended", b'{"callId":"c"}')
        end = mailbox.settle(bus, "s")
    reading = asyncio.create_task(mailbox.read(bus, "s", upto=end))
    await asyncio.sleep(0.3)
    assert not reading.done()
    for subject, payload in late:
        bus.publish(subject, payload)
    (letter,) = await reading
    assert letter.event == "call:ended"
    assert await mailbox.read(bus, "s") == [letter], "what marks the end is no letter"


async def test_what_is_never_stored_is_not_waited_for_long(
    nats_server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "READ_SECONDS", SECONDS)
    await _make(bus)
    never = mailbox.Letter(subjects.SETTLED, b'{"id":"never","seq":0}')
    with pytest.raises(Unavailable):
        await mailbox.read(bus, "s", upto=never)
