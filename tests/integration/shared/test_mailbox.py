"""Reading a mailbox into which something is still on its way."""

import asyncio
from typing import Any

import pytest

from services.gateway.sessions.resume import ResumingSession, ResumingSessions
from shared import subjects
from shared.clock import now_ms
from shared.errors import Unavailable
from shared.messaging import mailbox
from shared.messaging.mailbox import MailboxPublisher, MailboxReach
from shared.nats import streams
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats

SECONDS = 0.5


async def _nobody_knows(_session: str, _seq: int) -> None:
    return None


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
        MailboxPublisher(bus).deliver("gw", "s", "call:ended", b'{"callId":"c"}')
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
    never = mailbox.MailboxMessage(subjects.SETTLED, b'{"id":"never","seq":0}')
    with pytest.raises(Unavailable):
        await mailbox.read(bus, "s", upto=never)


async def _reaches(bus: Bus, since_ms: int) -> bool:
    """What somebody who asks now is told."""
    return await MailboxReach(bus).covers(since_ms)


async def test_a_full_stream_does_not_reach_back_to_what_it_has_dropped(
    nats_server: EmbeddedNats, bus: Bus
) -> None:
    """Who came before that may have missed something: ``resumed: true`` would be a lie."""
    begun = now_ms()
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=60, max_mb=1)
    await asyncio.sleep(0.01)
    made = now_ms()
    assert await _reaches(bus, made), "it is new, and made before"
    assert not await _reaches(bus, begun - 1_000), "what was sent before there was one is not in it"
    mailbox_publisher = MailboxPublisher(bus)
    for _ in range(30):
        mailbox_publisher.deliver("gw", "s", "call:offer", b'{"offer":"%b"}' % (b"x" * 16_384))
    await bus.flush()
    assert await _reaches(bus, made), "there is room"
    for _ in range(100):
        mailbox_publisher.deliver("gw", "s", "call:offer", b'{"offer":"%b"}' % (b"x" * 16_384))
    await bus.flush()
    await mailbox.read(bus, "s", upto=mailbox.settle(bus, "s"))
    assert not await _reaches(bus, made)
    assert await _reaches(bus, now_ms()), "what comes now is there"


async def test_what_is_older_than_the_stream_keeps_is_not_asked_for(
    nats_server: EmbeddedNats, bus: Bus
) -> None:
    """A session whose client has been silent for longer than its grace is no more; until then all of it is kept."""
    await streams.ensure_deliver(bus, replicas=1, max_age_seconds=1, max_mb=1)
    since = now_ms() - 100
    assert not await _reaches(bus, since)
    await asyncio.sleep(1.2)
    assert await _reaches(bus, since)


async def test_the_reach_is_asked_for_at_most_once_a_second(
    nats_server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _make(bus)
    asked, api, reach = 0, streams.api, MailboxReach(bus)

    async def counted(bus: Bus, verb: str, *args: Any, **more: Any) -> dict[str, Any]:
        nonlocal asked
        asked += verb.startswith("STREAM.INFO")
        return await api(bus, verb, *args, **more)

    monkeypatch.setattr(streams, "api", counted)
    for _ in range(5):
        await reach.covers(now_ms())
    assert asked == 1
    monkeypatch.setattr(mailbox, "_LOOK_SECONDS", 0.0)
    await asyncio.sleep(0.01)
    await reach.covers(now_ms())
    assert asked == 2


async def test_a_flood_evicts_what_is_its_own_sessions_and_shows(bus: Bus) -> None:
    """One session's mailbox is full of one event; what was sent to another one before that is still there."""
    await _make(bus)
    mailbox_publisher = MailboxPublisher(bus)
    mailbox_publisher.deliver("gw", "quiet", "ice:candidate", b'{"n":0}')
    mailbox_publisher.deliver("gw", "loud", "call:accepted", b'{"callId":"c"}')
    for n in range(streams.MAILBOX_MAX + 10):
        mailbox_publisher.deliver("gw", "loud", "ice:candidate", b'{"n":%d}' % n)
    (letter,) = await mailbox.read(bus, "quiet", upto=mailbox.settle(bus, "quiet"))
    assert letter.payload.startswith(b'{"n":0,')
    assert not mailbox.crowded([letter])
    loud = await mailbox.read(bus, "loud", upto=mailbox.settle(bus, "loud"))
    assert len(loud) == streams.MAILBOX_MAX + 1 and loud[0].event == "call:accepted"
    assert loud[1].payload.startswith(b'{"n":10,')
    assert mailbox.crowded(loud), "a resume must not be told that nothing is missing"
    recovery = ResumingSession("loud", direct=True)
    missed = await ResumingSessions(bus, _nobody_knows).read_missed(
        recovery, last_seq=loud[0].seq, lost_at=None, since=0
    )
    assert not missed.complete
    # A client that has got some of what is there still has missed nothing that was evicted.
    assert not mailbox.crowded(loud, loud[1].seq)
    missed = await ResumingSessions(bus, _nobody_knows).read_missed(
        recovery, last_seq=loud[500].seq, lost_at=None, since=0
    )
    assert missed.complete
    assert [letter.payload for letter in missed.missed] == [letter.payload for letter in loud[501:]]
