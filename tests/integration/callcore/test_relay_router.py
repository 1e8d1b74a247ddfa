"""Relays through call control: where they go, in what order, and what is refused."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from services.callcore.app import Timing
from services.callcore.relay.delivery import EARLY_MAX
from services.callcore.relay.relay_router import RelayRouter
from services.callcore.store import Store
from shared import subjects
from shared.contracts.relays import LINE, Acks, stamp
from shared.errors import Unavailable
from shared.ids import encode
from shared.messaging import mailbox
from shared.nats import streams
from signalling.run.nats_server import EmbeddedNats
from tests.integration.callcore.conftest import GATEWAY, Start, World
from tests.support.logged import Logged


async def accepted(world: World) -> str:
    """A call between ann's phone and bob's phone."""
    await world.online("ann", "phone", "tab")
    await world.online("bob", "phone", "tab")
    call = (await world.initiate("ann-phone", "bob")).call
    await world.accept("bob-phone", call)
    return call


def candidates(world: World, session: str) -> list[int]:
    return [s.body["candidate"]["n"] for s in world.to(session, "ice:candidate")]


async def relay_many(world: World, session: str, to: str, call: str, numbers: range, **more: Any) -> None:
    for n in numbers:
        await world.relay(session, to, "ice:candidate", call, {"candidate": {"n": n}}, **more)


async def test_relays_reach_the_peer_unchanged_and_in_order(world: World, callcore: Start) -> None:
    await callcore()
    await callcore()
    call = await accepted(world)
    await asyncio.gather(
        relay_many(world, "ann-phone", "bob", call, range(500)),
        relay_many(world, "bob-phone", "ann", call, range(500)),
    )
    await world.until(
        lambda: len(candidates(world, "ann-phone")) == len(candidates(world, "bob-phone")) == 500
    )
    assert candidates(world, "bob-phone") == candidates(world, "ann-phone") == list(range(500))
    one = world.to("bob-phone", "ice:candidate")[0]
    assert {**one.body, "seq": 0} == {"candidate": {"n": 0}, "from": "ann", "callId": call, "seq": 0}
    assert not world.to("bob-tab", "ice:candidate")
    assert one.reply.startswith("receipt.gw1.ann-phone.")


async def test_the_wrong_instance_relays_too(world: World, callcore: Start) -> None:
    names = [await callcore(), await callcore()]
    call = await accepted(world)
    for name in names:
        await relay_many(world, "ann-phone", "bob", call, range(20), at=name)
        await world.until(lambda: len(candidates(world, "bob-phone")) == 20)
        assert candidates(world, "bob-phone") == list(range(20))
        world.seen.clear()


@pytest.mark.parametrize(
    ("session", "to"),
    [
        ("ann-phone", "cem"),
        ("ann-phone", "ann"),
        ("ann-tab", "bob"),
        ("bob-tab", "ann"),
        ("cem-phone", "ann"),
    ],
)
async def test_nobody_else_gets_through(world: World, callcore: Start, session: str, to: str) -> None:
    await callcore()
    call = await accepted(world)
    world.seen.clear()
    for kind in ("call:offer", "call:answer", "ice:candidate"):
        number = await world.relay(session, to, kind, call, {"offer": {}})
        assert await world.refusal(number) == "receiver_not_found"
    assert not world.seen


async def test_a_call_that_is_over_or_unknown_has_no_receiver(world: World, callcore: Start) -> None:
    await callcore()
    call = await accepted(world)
    await world.end("ann-phone", call)
    for id_ in (call, "a call.that never > was"):
        number = await world.relay("ann-phone", "bob", "call:offer", id_, {"offer": {}})
        assert await world.refusal(number) == "receiver_not_found"


async def test_early_media_reaches_ringing_devices_and_later_ones(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    await world.relay("ann-phone", "bob", "call:offer", call, {"offer": {"sdp": "x"}})
    await relay_many(world, "ann-phone", "bob", call, range(10))
    await world.until(lambda: len(candidates(world, "bob-phone")) == 10)
    await world.online("bob", "phone", "tab")
    await world.attached("bob-tab")
    await world.until(lambda: len(candidates(world, "bob-tab")) == 10)
    await relay_many(world, "ann-phone", "bob", call, range(10, 20))
    await world.until(lambda: len(candidates(world, "bob-tab")) == 20)
    assert [s.event for s in world.to("bob-tab")][:2] == ["call:incoming", "call:offer"]
    assert candidates(world, "bob-tab") == candidates(world, "bob-phone") == list(range(20))
    seqs = [s.body["seq"] for s in world.to("bob-tab")]
    assert seqs == sorted(seqs)


async def test_an_instance_that_takes_a_ringing_call_over_knows_its_early_media(
    nats_url: str, world: World, callcore: Start
) -> None:
    from services.callcore.app import start
    from services.callcore.settings import Settings

    await world.online("ann", "phone")
    await world.online("bob", "phone")
    async with start(Settings.model_validate({"nats_url": nats_url}), "cc-first"):
        await world.until(lambda: world.members.alive("callcore"))
        call = (await world.initiate("ann-phone", "bob")).call
        await world.relay("ann-phone", "bob", "call:offer", call, {"offer": {"sdp": 'a"callId":"b'}})
        await relay_many(world, "ann-phone", "bob", call, range(5))
        await world.until(lambda: len(candidates(world, "bob-phone")) == 5)
    await callcore()
    await world.online("bob", "phone", "tab")
    await world.attached("bob-tab")
    await world.until(lambda: len(candidates(world, "bob-tab")) == 5)
    offer = world.to("bob-tab", "call:offer")[0]
    assert offer.body["offer"] == {"sdp": 'a"callId":"b'}
    assert [s.event for s in world.to("bob-tab")] == ["call:incoming", "call:offer"] + 5 * ["ice:candidate"]


async def test_early_media_is_bounded(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    for _ in range(EARLY_MAX):
        last = await world.relay("ann-phone", "bob", "ice:candidate", call, {"candidate": {"n": 0}})
    over = await world.relay("ann-phone", "bob", "ice:candidate", call, {"candidate": {"n": 1}})
    assert await world.refusal(over) == "rate_limited"
    assert not [n for _, n, _ in world.receipts if n <= last]
    await world.accept("bob-phone", call)
    await relay_many(world, "ann-phone", "bob", call, range(2, 3))
    await world.until(lambda: candidates(world, "bob-phone")[-1] == 2)


async def test_an_answer_while_it_rings_accepts(world: World, callcore: Start) -> None:
    await callcore()
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone", "tab")
    call = (await world.initiate("ann-phone", "bob")).call
    await world.relay("bob-tab", "ann", "call:answer", call, {"answer": {"sdp": "y"}})
    await relay_many(world, "bob-tab", "ann", call, range(3))
    await world.until(lambda: len(candidates(world, "ann-phone")) == 3)
    events = [s.event for s in world.to("ann-phone")]
    assert events == ["call:initiated", "call:accepted", "call:answer", *3 * ["ice:candidate"]]
    assert (await world.expect("bob-phone", "call:ended")).body["reason"] == "answered_elsewhere"
    late = await world.relay("bob-phone", "ann", "call:answer", call, {"answer": {}})
    assert await world.refusal(late) == "receiver_not_found"


async def test_the_caller_cannot_answer_its_own_call(world: World, callcore: Start) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    number = await world.relay("ann-phone", "bob", "call:answer", call, {"answer": {}})
    assert await world.refusal(number) == "invalid_state"


async def test_a_call_whose_announcement_was_lost_is_read_before_a_relay_is_refused(
    world: World, callcore: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone", "tab")
    call = (await world.initiate("ann-phone", "bob")).call
    monkeypatch.setattr(RelayRouter, "_update_now", lambda *_: True)  # the announcement does not arrive
    await world.accept("bob-phone", call)
    await world.relay("bob-phone", "ann", "call:answer", call, {"answer": {}})
    await world.expect("ann-phone", "call:answer")
    assert len(world.to("ann-phone", "call:accepted")) == 1


async def test_a_cached_call_is_trusted_for_a_few_seconds_only(
    world: World, callcore: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await callcore(timing=Timing(fresh_seconds=0.2))
    call = await accepted(world)
    await relay_many(world, "ann-phone", "bob", call, range(1))
    await world.until(lambda: candidates(world, "bob-phone") == [0])
    monkeypatch.setattr(RelayRouter, "_update_now", lambda *_: True)  # the announcement does not arrive
    await world.end("bob-phone", call)
    await asyncio.sleep(0.3)
    number = await world.relay("ann-phone", "bob", "ice:candidate", call, {"candidate": {"n": 1}})
    assert await world.refusal(number) == "receiver_not_found"


# --- copies, gaps, acknowledgements ---------------------------------------------------------------------------------


class Sender:
    """The gateway of a session that sends relays for a call, as it is seen from call control."""

    def __init__(self, world: World, session: str, call: str) -> None:
        self._world = world
        self._session = session
        self._call = call
        self.acks: list[Acks] = []

    async def listen(self) -> "Sender":
        await self._world.bus.subscribe(subjects.acks(GATEWAY), self._on_acks)
        await self._world.bus.flush()
        return self

    async def _on_acks(self, msg: Msg) -> None:
        self.acks.append(Acks.model_validate_json(msg.data))

    async def send(
        self, number: int, flags: str, *, confirm_void: bool = False, at: str | None = None
    ) -> None:
        user, to = ("ann", "bob") if self._session.startswith("ann") else ("bob", "ann")
        payload = b'{"candidate":{"n":%d},"from":"%b","callId":"%b"}' % (
            number, user.encode(), self._call.encode(),
        )  # fmt: skip
        owner = at or self._world.members.owner("callcore", encode(self._call))
        assert owner is not None
        self._world.bus.publish(
            subjects.relay(owner, self._call, user, self._session, to, "ice:candidate"),
            b"" if confirm_void else stamp(payload, self._session, number),
            subjects.receipt(GATEWAY, self._session, number, *subjects.parse_flags(flags)),
        )

    def send_together(self, numbers: range, flags: str) -> None:
        lines = [
            stamp(
                b'{"candidate":{"n":%d},"from":"ann","callId":"%b"}' % (n, self._call.encode()),
                self._session,
                n,
            )
            for n in numbers
        ]
        owner = self._world.members.owner("callcore", encode(self._call))
        assert owner is not None
        self._world.bus.publish(
            subjects.relay(owner, self._call, "ann", self._session, "bob", "ice:candidate"),
            LINE.join(lines),
            subjects.receipt(
                GATEWAY, self._session, numbers[0], *subjects.parse_flags(flags), len(numbers) - 1
            ),
        )

    async def acknowledged(self, number: int, attempt: int = 0) -> None:
        """Wait until this number is acknowledged, of what was sent that time."""
        entry = (self._session, encode(self._call), number, attempt)
        await self._world.until(lambda: any(entry in acks.done for acks in self.acks))

    async def missed(self) -> None:
        """Wait until all that is not acknowledged is asked for."""
        entry = (self._session, encode(self._call))
        await self._world.until(lambda: any(entry in acks.gaps for acks in self.acks))
        self.acks.clear()


async def test_each_relay_is_passed_on_once_in_order_and_acknowledged(world: World, callcore: Start) -> None:
    name = await callcore()
    sender = await Sender(world, "ann-phone", await accepted(world)).listen()
    for number, marks in ((7, "0s"), (8, "0f"), (9, "0f")):
        await sender.send(number, marks)
    await sender.acknowledged(9)
    assert {acks.by for acks in sender.acks} == {name}
    for number, marks in ((8, "1"), (9, "1f"), (11, "1f")):
        await sender.send(number, marks)
    await sender.missed()
    await sender.send(10, "2")
    await sender.send(11, "2f")
    await sender.acknowledged(11, 2)
    assert candidates(world, "bob-phone") == [7, 8, 9, 10, 11]
    await sender.send(10, "3a")
    await sender.acknowledged(10, 3)
    assert candidates(world, "bob-phone") == [7, 8, 9, 10, 11, 10]


async def test_several_in_one_message(world: World, callcore: Start) -> None:
    """They are passed on in one message, once each; while it rings one by one, for then they are counted and kept."""
    await callcore()
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    sender = await Sender(world, "ann-phone", call).listen()
    sender.send_together(range(1, 4), "0s")
    await sender.acknowledged(3)
    assert world.messages(call) == [("bob-phone", [n]) for n in (1, 2, 3)]
    await world.accept("bob-phone", call)
    sender.send_together(range(4, 7), "0f")
    await sender.acknowledged(6)
    assert world.messages(call)[3:] == [("bob-phone", [4, 5, 6])]
    sender.send_together(range(5, 9), "1")
    await sender.acknowledged(8, 1)
    assert world.messages(call)[4:] == [("bob-phone", [7, 8])], "the first two have been passed on"
    seqs = [seen.body["seq"] for seen in world.to("bob-phone", "ice:candidate")]
    assert seqs == sorted(set(seqs))
    left = subjects.receipt_of(world.to("bob-phone", "ice:candidate")[-1].reply)
    assert (left.number, left.flags_text, left.more) == (7, "1fl", 1), "what the receiving gateway may go by"
    letters = await mailbox.read(world.bus, "bob-phone")
    assert [
        json.loads(letter.payload)["candidate"]["n"] for letter in letters if "candidate" in letter.event
    ] == [*range(1, 9)]
    sender.send_together(range(11, 13), "1f")
    await sender.missed()


async def test_a_void_relay_is_acknowledged_and_not_passed_on(world: World, callcore: Start) -> None:
    await callcore()
    sender = await Sender(world, "ann-phone", await accepted(world)).listen()
    await sender.send(7, "0s")
    await sender.send(8, "0f", confirm_void=True)
    await sender.send(9, "0fs")
    await sender.acknowledged(9)
    assert candidates(world, "bob-phone") == [7, 9]


async def test_a_refused_one_is_acknowledged(world: World, callcore: Start) -> None:
    await callcore()
    call = await accepted(world)
    await world.end("ann-phone", call)
    sender = await Sender(world, "ann-phone", call).listen()
    await sender.send(7, "0s")
    assert await world.refusal(7) == "receiver_not_found"
    await sender.acknowledged(7)


async def test_early_media_holds_no_duplicates(world: World, callcore: Start) -> None:
    names = [await callcore(), await callcore()]
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    call = (await world.initiate("ann-phone", "bob")).call
    owner = world.members.owner("callcore", call)
    sender = await Sender(world, "ann-phone", call).listen()
    for n in range(3):
        await sender.send(7 + n, "0f" if n else "0s")
    await sender.acknowledged(9)
    for n in range(4):
        await sender.send(7 + n, "1f" if n else "1s")
    await sender.acknowledged(10, 1)
    for n in range(4):
        await sender.send(7 + n, "2fa" if n else "2sa")
    await sender.acknowledged(10, 2)
    await world.online("bob", "phone", "tab")
    await world.attached("bob-tab")
    await world.until(lambda: len(candidates(world, "bob-tab")) == 4)
    assert candidates(world, "bob-tab") == [7, 8, 9, 10]

    # Another instance knows from the mailboxes what has been passed on, and what of it is there twice.
    other = next(name for name in names if name != owner)
    for n in range(5):
        await sender.send(7 + n, "3f" if n else "3s", at=other)
    await sender.acknowledged(11, 3)
    assert candidates(world, "bob-tab") == [7, 8, 9, 10, 11]


async def test_a_relay_whose_call_cannot_be_read_is_neither_refused_nor_acknowledged(
    world: World, callcore: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await callcore()
    await callcore()
    call = await accepted(world)
    sender = await Sender(world, "ann-phone", call).listen()
    other = next(n for n in world.members.alive("callcore") if n != world.members.owner("callcore", call))

    async def away(*_: object, **__: object) -> None:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(Store, "call", away)
        await sender.send(7, "0s", at=other)
        await sender.missed()
    assert not world.receipts and not candidates(world, "bob-phone")
    await sender.send(7, "1s", at=other)
    await sender.acknowledged(7, 1)
    assert candidates(world, "bob-phone") == [7]


async def test_the_cached_call_is_used_while_the_call_cannot_be_read(
    world: World,
    callcore: Start,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable

    await callcore(timing=Timing(fresh_seconds=0.0))
    call = await accepted(world)
    monkeypatch.setattr(Store, "call", away)
    await relay_many(world, "ann-phone", "bob", call, range(5))
    await world.until(lambda: len(candidates(world, "bob-phone")) == 5)
    assert candidates(world, "bob-phone") == list(range(5)) and not world.receipts
    assert logged.count("call not read") == 1
    number = await world.relay("ann-tab", "bob", "ice:candidate", call, {"candidate": {"n": 9}})
    await world.relay("ann-phone", "bob", "ice:candidate", call, {"candidate": {"n": 5}})
    await world.until(lambda: len(candidates(world, "bob-phone")) == 6)
    assert not [n for _, n, _ in world.receipts if n == number], (
        "what is not plain is not decided without the call"
    )


async def test_an_instance_that_was_cut_off_reports_a_suspect_loss(
    world: World, callcore: Start, nats_server: EmbeddedNats
) -> None:
    """A stream hears it, whoever is back first."""
    await callcore()
    await streams.ensure(world.bus, {"name": "DOUBTS", "subjects": [subjects.DOUBT], "storage": "file"})
    await asyncio.to_thread(nats_server.restart)
    said = 0
    async with asyncio.timeout(10):
        while not said:
            await asyncio.sleep(0.1)
            with contextlib.suppress(Unavailable):
                said = (await streams.api(world.bus, "STREAM.INFO.DOUBTS", {}))["state"]["messages"]
    assert said == 1
