"""Relays: published as the peer will see them, acknowledged by receipt, and sent again when an instance is gone."""

import asyncio
import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from services.gateway.relay import ack_tracker, send_buffer, send_window
from shared import subjects
from shared.clock import now_seq
from shared.contracts.liveness import Beat
from shared.contracts.relays import Acks, apart, stamp, stamped
from shared.nats.connection import Bus
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start

OFFER = {"offer": {"sdp": "v=0 ü"}, "from": "alice", "to": "bob", "callId": "c", "callType": "audio"}


class Callcore:
    """An instance that takes relays, answers as ``answer`` says (``None``: not at all), and acknowledges them."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self.name = name
        self.answer: bytes | None = b""
        self.acks = True
        self.got: list[tuple[subjects.RelaySubject, bytes, str]] = []
        self.messages = 0
        """How many messages they came in."""

    async def start(self) -> "Callcore":
        self._subscription = await self._bus.subscribe(subjects.relay_all(self.name), self._on_relay)
        await self._bus.flush()
        return self

    async def vanish(self) -> None:
        await self._subscription.unsubscribe()
        await self._bus.flush()

    async def _on_relay(self, msg: Msg) -> None:
        self.messages += 1
        for reply, payload in apart(msg.reply, msg.data):
            self.got.append((subjects.parse_relay(msg.subject), payload, reply))
            if self.answer is not None and (self.answer or subjects.receipt_wanted(reply)):
                self._bus.publish(reply, self.answer)
            if self.acks:
                receipt = subjects.receipt_of(reply)
                done = (receipt.session, msg.subject.split(".")[2], receipt.number, receipt.attempt)
                self._bus.publish(subjects.acks(GATEWAY), Acks(by=self.name, done=(done,)).dump())

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.got) < count:
                await asyncio.sleep(0.01)


async def test_what_is_published(gateway: Start, connect: Connect, services: Services, bus: Bus) -> None:
    cc = await Callcore(bus, "cc").start()
    alice = await connect(await gateway(), "alice")
    assert await alice.ok("call:offer", OFFER) == {"ok": True}
    subject, body, reply = cc.got[0]
    assert subject == ("cc", "c", "alice", alice.session, "bob", "call:offer")
    first = subjects.receipt_of(reply)
    number = first.number
    assert (first.session, first.flags_text) == (alice.session, "0sw")
    wanted = {
        "offer": OFFER["offer"],
        "from": "alice",
        "callId": "c",
        "callType": "audio",
        "relay": f"{alice.session}.{number}",
    }
    assert (
        json.loads(body) == wanted
        and body == json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
    )
    await alice.emit("ice:candidate", {"candidate": None, "from": "alice", "to": "bob", "callId": "c"})
    await cc.wait_for(2)
    bare = stamped(cc.got[1][1])
    assert bare is not None and bare.bare == b'{"candidate":null,"from":"alice","callId":"c"}'
    second = subjects.receipt_of(cc.got[1][2])
    assert second.number == number + 1 and not subjects.receipt_wanted(cc.got[1][2])


async def test_a_call_not_named_is_found_once(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    cc = await Callcore(bus, "cc").start()
    alice = await connect(await gateway(), "alice")
    unnamed = {key: value for key, value in OFFER.items() if key != "callId"}
    for _ in range(3):
        await alice.ok("call:offer", unnamed)
    assert services.verbs().count("find") == 1 and cc.got[2][0].call == "call-found"
    bus.publish(subjects.deliver(GATEWAY, alice.session, "call:ended"), b'{"callId":"c1","seq":1}')
    await alice.expect("call:ended")
    services.answers["find"] = ("receiver_not_found", "Receiver not found")
    await alice.refused("call:offer", unnamed, code="receiver_not_found")


async def test_refusals_with_and_without_acknowledgement(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    cc = await Callcore(bus, "cc").start()
    cc.answer = b'{"code":"receiver_not_found","message":"Receiver not found","retryable":false}'
    alice = await connect(await gateway(), "alice")
    await alice.refused("call:offer", OFFER, code="receiver_not_found")
    await alice.emit("call:offer", OFFER)
    await alice.expect("error", code="receiver_not_found")


async def test_no_receipt_in_time(gateway: Start, connect: Connect, services: Services, bus: Bus) -> None:
    """A peer in its grace has no gateway that could send one, but a mailbox."""
    cc = await Callcore(bus, "cc").start()
    cc.answer = None
    alice = await connect(await gateway(), "alice")
    assert await alice.ok("call:offer", OFFER) == {"ok": True, "queued": True}
    cc.acks = False
    await alice.refused("call:offer", OFFER, code="unavailable")
    await cc.wait_for(3)
    assert cc.got[-1][1] == b"", "the client has been told that it did not get there, so it is not to"


async def test_nobody_is_there(gateway: Start, connect: Connect, services: Services, bus: Bus) -> None:
    alice = await connect(await gateway(), "alice")
    await alice.refused("call:offer", OFFER, code="unavailable")


async def test_acknowledgements_are_not_waited_for(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    await Callcore(bus, "cc").start()
    alice = await connect(await gateway(rate_limit=False), "alice")
    acks = await asyncio.gather(*(alice.ok("call:offer", OFFER) for _ in range(500)))
    assert len(acks) == 500


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_the_next_instance_gets_them_in_order(
    gateway: Start, connect: Connect, services: Services, bus: Bus, *, acknowledged: bool
) -> None:
    first, second = await Callcore(bus, "cc").start(), await Callcore(bus, "cc2").start()
    url = await gateway()
    await services.beat("callcore", "cc2")
    alice = await connect(url, "alice")
    await alice.ok("ice:candidate", candidate(-1))
    gone, left = (first, second) if first.got else (second, first)
    await gone.vanish()
    if acknowledged:
        await asyncio.gather(*(alice.ok("ice:candidate", candidate(n)) for n in range(300)))
    else:
        for n in range(300):
            await alice.emit("ice:candidate", candidate(n))
    await left.wait_for(300)
    await alice.settle()
    assert [json.loads(body)["candidate"]["n"] for _, body, _ in left.got] == list(range(300))


async def test_a_receipt_goes_out_only_where_wanted(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    alice = await connect(await gateway(), "alice")
    receipts: list[str] = []

    async def note(msg: Msg) -> None:
        receipts.append(msg.subject)

    await bus.subscribe(subjects.receipt_all("other"), note)
    for number, flags in ((2, "0s"), (3, "0w"), (4, "0f"), (5, "0fwl")):
        bus.publish(
            subjects.deliver(GATEWAY, alice.session, "call:offer"),
            b'{"offer":{},"relay":"s.%d","seq":1}' % number,
            subjects.receipt("other", "s", number, *subjects.parse_flags(flags)),
        )
        await alice.expect("call:offer")
    async with asyncio.timeout(5):
        while len(receipts) < 2:
            await asyncio.sleep(0.01)
    assert receipts == ["receipt.other.s.3-0w", "receipt.other.s.5-0fwl"]


async def test_ids_of_any_length_and_script(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    """NATS takes subjects of four thousand bytes by default, and ends the connection over a longer one."""
    await Callcore(bus, "cc").start()
    user, peer, call = "👋" * 128, "🎈" * 128, "🎁" * 128
    url = await gateway()
    alice = await connect(url, user)
    bystander = await connect(url)
    await alice.ask("call:offer", {"offer": {}, "from": user, "to": peer, "callId": call})
    await bystander.ok("user:join", {"userId": "bystander"})


# --- sent again, given up, refused, written once -------------------------------------------------------------------


def candidate(n: int) -> dict[str, Any]:
    return {"candidate": {"n": n}, "from": "alice", "to": "bob", "callId": "c"}


def numbers_and_flags(cc: Callcore) -> list[tuple[int, str]]:
    """Return (n, attempt and flags) of each candidate that an instance got."""
    return [
        (json.loads(body)["candidate"]["n"], subjects.receipt_of(reply).flags_text)
        for _, body, reply in cc.got
    ]


async def test_all_that_is_not_acknowledged_goes_to_the_next_when_an_instance_is_deaf(
    gateway: Start, connect: Connect, services: Services, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_window, "RESEND_SECONDS", 0.6)
    both = await Callcore(bus, "cc").start(), await Callcore(bus, "cc2").start()
    url = await gateway()
    await services.beat("callcore", "cc2")
    alice = await connect(url, "alice")
    for cc in both:
        cc.acks = False
    for n in range(3):
        await alice.emit("ice:candidate", candidate(n))
    await alice.settle()
    deaf, other = both if both[0].got else reversed(both)
    other.acks = True
    await other.wait_for(3)
    assert numbers_and_flags(deaf) == [(0, "0s"), (1, "0f"), (2, "0f"), (0, "1s"), (1, "1f"), (2, "1f")]
    assert numbers_and_flags(other) == [(0, "2s"), (1, "2f"), (2, "2f")]
    await alice.emit("ice:candidate", candidate(3))
    await other.wait_for(4)
    assert numbers_and_flags(other)[-1][0] == 3


async def test_what_call_control_misses_is_sent_again(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    cc = await Callcore(bus, "cc").start()
    cc.acks = False
    alice = await connect(await gateway(), "alice")
    for n in range(2):
        await alice.emit("ice:candidate", candidate(n))
    await cc.wait_for(2)
    first = subjects.receipt_of(cc.got[0][2]).number
    told = Acks(by="cc", done=((alice.session, "c", first, 0),), gaps=((alice.session, "c"),))
    bus.publish(subjects.acks(GATEWAY), told.dump())
    await cc.wait_for(3)
    assert numbers_and_flags(cc)[2] == (1, "1"), (
        "it follows none that is not acknowledged, but one that may not have arrived"
    )


@pytest.mark.parametrize("told", ["lost", "doubt"])
async def test_what_is_in_doubt_is_sent_again_though_it_is_acknowledged(
    gateway: Start, connect: Connect, services: Services, bus: Bus, told: str
) -> None:
    cc = await Callcore(bus, "cc").start()
    alice = await connect(await gateway(), "alice")
    for n in range(2):
        await alice.ok("ice:candidate", candidate(n))
    if told == "doubt":
        bus.publish(subjects.DOUBT)
    else:
        bus.publish(subjects.acks(GATEWAY), Acks(by="gw", lost=(alice.session,)).dump())
    await cc.wait_for(4)
    assert [(n, what.strip("0123f")) for n, what in numbers_and_flags(cc)[2:]] == [(0, "saw"), (1, "aw")]
    await alice.settle()
    assert not alice.inbox.leftovers()


async def test_a_refusal_of_one_that_came_again_is_not_told(
    gateway: Start, connect: Connect, services: Services, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been passed on the first time, and its call be over by now."""
    monkeypatch.setattr(send_window, "RESEND_SECONDS", 0.2)
    cc = await Callcore(bus, "cc").start()
    cc.answer, cc.acks = None, False
    alice = await connect(await gateway(), "alice")
    await alice.emit("ice:candidate", candidate(0))
    await cc.wait_for(1)
    refusal = {"code": "receiver_not_found", "message": "Receiver not found", "event": "ice:candidate"}
    cc.answer = json.dumps({**refusal, "retryable": False}).encode()
    await cc.wait_for(2)
    cc.acks = True
    await alice.refused("call:offer", OFFER, code="receiver_not_found")
    assert [error["event"] for error in alice.inbox.seen("error")] == ["call:offer"]


async def test_given_up(
    gateway: Start, connect: Connect, services: Services, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "GIVE_UP_SECONDS", 1.0)
    cc = await Callcore(bus, "cc").start()
    cc.acks = False
    alice = await connect(await gateway(), "alice")
    await alice.emit("ice:candidate", candidate(0))
    await alice.expect("error", code="unavailable", event="ice:candidate", retryable=True)
    cc.acks = True
    await alice.ok("ice:candidate", candidate(1))
    assert numbers_and_flags(cc)[-1] == (1, "0sw"), "nobody is to wait for the one that was given up"


async def test_full(
    gateway: Start, connect: Connect, services: Services, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "RELAYS_MAX", 6)  # half of which one session may have, and no more
    cc = await Callcore(bus, "cc").start()
    cc.acks = False
    alice = await connect(await gateway(), "alice")
    for n in range(3):
        await alice.emit("ice:candidate", candidate(n))
    assert (await alice.refused("ice:candidate", candidate(3), code="unavailable"))["retryable"]
    await alice.emit("ice:candidate", candidate(4))
    await alice.expect("error", code="unavailable", event="ice:candidate")
    await cc.wait_for(3)
    assert [n for n, _ in numbers_and_flags(cc)] == [0, 1, 2]


async def test_while_nobody_is_there_candidates_wait_and_who_asks_is_told_at_once(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    cc = await Callcore(bus, "cc").start()
    alice = await connect(await gateway(), "alice")
    await alice.ok("ice:candidate", candidate(0))
    bus.publish(subjects.live("callcore", "cc"), Beat(version="0", started_at=0, leaving=True).dump())
    await bus.flush()
    for n in (1, 2):
        await alice.emit("ice:candidate", candidate(n))
    await alice.refused("ice:candidate", candidate(3), code="unavailable")
    assert len(cc.got) == 1
    await services.beat("callcore", "cc")
    await cc.wait_for(3)
    assert [n for n, _ in numbers_and_flags(cc)] == [0, 1, 2]


async def test_a_client_gets_each_once_and_in_order_and_its_gateway_says_what_it_misses(
    gateway: Start, connect: Connect, services: Services, bus: Bus
) -> None:
    alice = await connect(await gateway(), "alice")
    receipts: asyncio.Queue[Msg] = asyncio.Queue()
    missed: asyncio.Queue[Msg] = asyncio.Queue()
    await bus.subscribe(subjects.receipt_all("other"), receipts.put)
    await bus.subscribe(subjects.acks("other"), missed.put)

    async def deliver(number: int, flags: str) -> None:
        body = stamp(b'{"candidate":{"n":%d}}' % number, "s", number)
        reply = subjects.receipt("other", "s", number, *subjects.parse_flags(flags))
        subject = subjects.deliver(GATEWAY, alice.session, "ice:candidate")
        bus.publish(subject, b'%b,"seq":%d}' % (body[:-1], now_seq()), reply)

    for number, flags in ((5, "0swl"), (6, "0fl"), (5, "1sawl"), (8, "1fawl"), (7, "2fl"), (8, "2fwl")):
        await deliver(number, flags)
    got = await alice.inbox.expect_many("ice:candidate", 4)
    assert [letter["candidate"]["n"] for letter in got] == [5, 6, 7, 8] and "relay" not in got[0]
    async with asyncio.timeout(5):
        assert Acks.model_validate_json((await missed.get()).data).lost == ("s",)
        told = [subjects.receipt_of((await receipts.get()).subject) for _ in range(3)]
    assert [(receipt.number, receipt.flags_text) for receipt in told] == [
        (5, "0swl"),
        (5, "1sawl"),
        (8, "2fwl"),
    ]
    await alice.quiet()


async def test_one_that_nobody_knows_of_does_not_hold_up_who_waits_behind_it(
    gateway: Start, connect: Connect, services: Services, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ack_tracker, "QUEUED_SECONDS", 0.3)
    cc = await Callcore(bus, "cc").start()
    cc.acks, cc.answer = False, None
    alice = await connect(await gateway(relay_ack_seconds=5), "alice")
    unknown = asyncio.create_task(alice.ask("ice:candidate", candidate(0)))
    await cc.wait_for(1)
    await asyncio.sleep(0.6)  # it has waited so long that it is looked at for the last time only
    cc.acks = True
    known = await asyncio.wait_for(alice.ask("ice:candidate", {**candidate(1), "callId": "d"}), 2)
    assert known == {"ok": True, "queued": True} and not unknown.done()
    assert (await unknown)["ok"]
