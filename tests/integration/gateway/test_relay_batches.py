"""Candidates that come together leave in one message, and one message with several is written as several events."""

import asyncio
import json

import pytest
from nats.aio.msg import Msg

from services.gateway.relay import retransmitter
from shared import subjects
from shared.clock import now_seq
from shared.contracts.relays import LINE, TOGETHER_MAX, apart, stamp, stamped
from shared.nats.connection import Bus
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start
from tests.integration.gateway.test_relays import Callcore
from tests.integration.gateway.test_websocket import Open, Wire, frame, wire  # noqa: F401 (a fixture)


def candidate(n: int, *, event: bytes = b"ice:candidate", ack: bytes = b"") -> bytes:
    body = b'{"candidate":{"n":%d},"from":"alice","to":"bob","callId":"c"}' % n
    return frame(b'42%b["%b",%b]' % (ack, event, body))


async def talking(gateway: Start, bus: Bus, wire: Open) -> tuple[Callcore, Wire]:  # noqa: F811
    """Call control, and a client that has sent one candidate: the long way, by which its envelope is learnt."""
    cc = await Callcore(bus, "cc").start()
    client = await wire(await gateway())
    await client.join("alice")
    client.writer.write(candidate(0))
    await cc.wait_for(1)
    return cc, client


async def settle(cc: Callcore, count: int) -> list[int]:
    await cc.wait_for(count)
    return [json.loads(body).get("candidate", {}).get("n") for _, body, _ in cc.got]


async def test_what_comes_in_one_read_leaves_in_one_message(
    gateway: Start,
    services: Services,
    bus: Bus,
    wire: Open,  # noqa: F811
) -> None:
    cc, client = await talking(gateway, bus, wire)
    client.writer.write(b"".join(candidate(n) for n in range(1, 7)))
    assert await settle(cc, 7) == list(range(7))
    assert cc.messages == 2
    numbers = [subjects.receipt_of(reply).number for _, _, reply in cc.got]
    assert numbers == list(range(numbers[0], numbers[0] + 7))
    assert [stamped(body).number for _, body, _ in cc.got] == numbers  # type: ignore[union-attr]
    assert [subjects.receipt_of(reply).flags_text for _, _, reply in cc.got[2:]] == 5 * ["0f"]


async def test_what_wants_an_acknowledgement_or_is_something_else_leaves_by_itself(
    gateway: Start,
    services: Services,
    bus: Bus,
    wire: Open,  # noqa: F811
) -> None:
    cc, client = await talking(gateway, bus, wire)
    offer = frame(b'42["call:offer",{"offer":{"sdp":"x"},"from":"alice","to":"bob","callId":"c"}]')
    client.writer.write(
        candidate(1) + candidate(2) + offer + candidate(3) + candidate(4, ack=b"7") + candidate(5)
    )
    await client.expect(b"437")
    assert await settle(cc, 7) == [0, 1, 2, None, 3, 4, 5], "in the order in which they were sent"
    assert cc.messages == 1 + 1 + 1 + 1 + 1 + 1


async def test_there_are_so_many_in_one_message_at_most(
    gateway: Start,
    services: Services,
    bus: Bus,
    wire: Open,  # noqa: F811
) -> None:
    cc, client = await talking(gateway, bus, wire)
    client.writer.write(b"".join(candidate(n) for n in range(1, 2 * TOGETHER_MAX + 2)))
    assert await settle(cc, 2 * TOGETHER_MAX + 2) == list(range(2 * TOGETHER_MAX + 2))
    assert cc.messages == 1 + 3


async def test_what_is_sent_again_travels_together_too(
    gateway: Start,
    services: Services,
    bus: Bus,
    wire: Open,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.gateway.relay.send_window.RESEND_SECONDS", 0.3)
    monkeypatch.setattr(retransmitter, "_TICK_SECONDS", 0.05)
    cc = await Callcore(bus, "cc").start()
    cc.acks = False
    client = await wire(await gateway())
    await client.join("alice")
    client.writer.write(b"".join(candidate(n) for n in range(4)))
    assert (await settle(cc, 8))[-4:] == [0, 1, 2, 3]
    assert [subjects.receipt_of(reply).flags_text for _, _, reply in cc.got[-4:]] == ["1s", "1f", "1f", "1f"]
    before = cc.messages
    await cc.wait_for(12)
    assert cc.messages == before + 1
    cc.acks = True


async def test_a_message_of_several_is_written_as_several(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    alice = await connect(await gateway(), "alice")
    missed: asyncio.Queue[Msg] = asyncio.Queue()
    await bus.subscribe(subjects.acks("other"), missed.put)

    def deliver(first: int, last: int, flags: str) -> None:
        lines = []
        for number in range(first, last + 1):
            body = stamp(b'{"candidate":{"n":%d}}' % number, "s", number)
            lines.append(b'%b,"seq":%d}' % (body[:-1], now_seq() + 16 * number))
        reply = subjects.receipt("other", "s", first, *subjects.parse_flags(f"{flags}l"), last - first)
        bus.publish(subjects.deliver(GATEWAY, alice.session, "ice:candidate"), LINE.join(lines), reply)

    deliver(5, 7, "0s")
    deliver(5, 7, "1s")  # again: it is not known that they got through
    deliver(6, 9, "2")  # and so again, but for two of them
    deliver(12, 13, "2f")  # what is before it is missing
    deliver(10, 13, "3f")
    got = await alice.inbox.expect_many("ice:candidate", 9)
    assert [letter["candidate"]["n"] for letter in got] == list(range(5, 14))
    assert sorted(letter["seq"] for letter in got) == [letter["seq"] for letter in got]
    assert json.loads((await asyncio.wait_for(missed.get(), 5)).data)["lost"] == ["s"]
    await alice.quiet()


def test_apart() -> None:
    one = subjects.receipt("gw", "s", 7, 0, subjects.STARTS)
    assert list(apart(one, b"{}")) == [(one, b"{}")]
    several = list(apart(subjects.receipt("gw", "s", 7, 3, subjects.STARTS, 2), b"1\n2\n3"))
    assert [payload for _, payload in several] == [b"1", b"2", b"3"]
    receipts = [subjects.receipt_of(reply) for reply, _ in several]
    assert [(r.number, r.flags_text, r.more) for r in receipts] == [(7, "3s", 0), (8, "3f", 0), (9, "3f", 0)]
