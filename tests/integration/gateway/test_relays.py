"""Relays: published as the peer will see them, acknowledged by receipt, and sent again when an instance is gone."""

import asyncio
import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from shared import subjects
from shared.bus import Bus
from shared.contracts.relays import Acks, unstamped
from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start

OFFER = {"offer": {"sdp": "v=0 ü"}, "from": "alice", "to": "bob", "callId": "c", "callType": "audio"}


class Callcore:
    """An instance that takes relays, answers as ``answer`` says (``None``: not at all), and acknowledges them."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self.name = name
        self.answer: bytes | None = b""
        self.acks = True
        self.got: list[tuple[subjects.Relay, bytes, str]] = []

    async def start(self) -> "Callcore":
        self._subscription = await self._bus.subscribe(subjects.relay_all(self.name), self._on_relay)
        await self._bus.flush()
        return self

    async def vanish(self) -> None:
        await self._subscription.unsubscribe()
        await self._bus.flush()

    async def _on_relay(self, msg: Msg) -> None:
        self.got.append((subjects.parse_relay(msg.subject), msg.data, msg.reply))
        if self.answer is not None and (self.answer or subjects.receipt_wanted(msg.reply)):
            await self._bus.publish(msg.reply, self.answer)
        if self.acks:
            _, session, number, marks = subjects.receipt_of(msg.reply)
            done = (session, msg.subject.split(".")[2], number, subjects.attempt_of(marks))
            await self._bus.publish(subjects.acks(GATEWAY), Acks(by=self.name, done=(done,)).dump())

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
    _, session, number, marks = subjects.receipt_of(reply)
    assert (session, marks) == (alice.session, "0sw")
    wanted = {
        "offer": OFFER["offer"],
        "from": "alice",
        "callId": "c",
        "callType": "audio",
        "relay": f"{session}.{number}",
    }
    assert (
        json.loads(body) == wanted
        and body == json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
    )
    await alice.emit("ice:candidate", {"candidate": None, "from": "alice", "to": "bob", "callId": "c"})
    await cc.wait_for(2)
    assert unstamped(cc.got[1][1]) == b'{"candidate":null,"from":"alice","callId":"c"}'
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
    await bus.publish(subjects.deliver(GATEWAY, alice.session, "call:ended"), b'{"callId":"c1","seq":1}')
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
    alice = await connect(await gateway(), "alice")
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

    def candidate(n: int) -> dict[str, Any]:
        return {"candidate": {"n": n}, "from": "alice", "to": "bob", "callId": "c"}

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
    for number, marks in ((2, "0s"), (3, "0w"), (4, "0f"), (5, "0fwl")):
        await bus.publish(
            subjects.deliver(GATEWAY, alice.session, "call:offer"),
            b'{"offer":{},"relay":"s.%d","seq":1}' % number,
            subjects.receipt("other", "s", number, marks),
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
