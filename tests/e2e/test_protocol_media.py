"""The protocol, row by row: offers, answers and candidates, before and after a call is accepted."""

from typing import Any

import pytest

from tests.support.client import Client
from tests.support.scenario import Stage, end, ring, talk

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

SDP = 'v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=Ünï ☎ "quoted" \\ \u2028\r\n'
CANDIDATE = {
    "candidate": "candidate:842163049 1 udp 1677729535 192.0.2.1 51472 typ srflx",
    "sdpMid": "0",
    "sdpMLineIndex": 0,
    "usernameFragment": None,
}


def _offer(who: Client, to: Client, number: int = 0, **extra: Any) -> dict[str, Any]:
    offer = {"type": "offer", "sdp": SDP, "number": number, "deep": {"list": [1.5, None, True, []]}}
    return {"offer": offer, "from": who.user, "to": to.user, **extra}


def _answer(who: Client, to: Client, **extra: Any) -> dict[str, Any]:
    return {"answer": {"type": "answer", "sdp": SDP}, "from": who.user, "to": to.user, **extra}


def _candidate(who: Client, to: Client, number: int = 0, **extra: Any) -> dict[str, Any]:
    return {"candidate": {**CANDIDATE, "n": number}, "from": who.user, "to": to.user, **extra}


@pytest.mark.parametrize("named", [True, False], ids=["with callId", "without callId"])
async def test_offer_answer_and_candidates_reach_the_peer_unchanged(stage: Stage, named: bool) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    extra: dict[str, Any] = {"callId": call} if named else {}

    for sender, receiver in ((alice, bob), (bob, alice)):
        sent = _offer(sender, receiver, callType="video", **extra)
        assert await sender.ok("call:offer", sent) == {"ok": True}
        got = await receiver.expect("call:offer")
        assert got == {
            "offer": sent["offer"],
            "from": sender.user,
            "callId": call,
            "callType": "video",
            "seq": got["seq"],
        }
        sent = _answer(receiver, sender, **extra)
        await receiver.ok("call:answer", sent)
        got = await sender.expect("call:answer")
        expected = {"answer": sent["answer"], "from": receiver.user, "callId": call, "seq": got["seq"]}
        assert got == expected
        sent = _candidate(sender, receiver, **extra)
        await sender.ok("ice:candidate", sent)
        got = await receiver.expect("ice:candidate")
        expected = {"candidate": sent["candidate"], "from": sender.user, "callId": call, "seq": got["seq"]}
        assert got == expected
    await end(alice, bob, call=call)


async def test_the_end_of_candidates_and_batches(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    address = {"from": alice.user, "to": bob.user}

    await alice.ok("ice:candidate", {"candidate": None, **address})
    got = await bob.expect("ice:candidate")
    assert got == {"candidate": None, "from": alice.user, "callId": call, "seq": got["seq"]}

    batch = [CANDIDATE, {**CANDIDATE, "sdpMid": "1"}, None]
    await alice.ok("ice:candidate", {"candidates": batch, **address})
    got = await bob.expect("ice:candidate")
    assert got == {"candidates": batch, "from": alice.user, "callId": call, "seq": got["seq"]}
    await end(alice, bob, call=call)


async def test_relays_without_acknowledgement_arrive_too(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    await alice.emit("call:offer", _offer(alice, bob))
    await bob.expect("call:offer", callId=call)
    await bob.emit("call:answer", _answer(bob, alice))
    await alice.expect("call:answer", callId=call)
    await alice.emit("ice:candidate", _candidate(alice, bob))
    await bob.expect("ice:candidate", callId=call)
    await end(alice, bob, call=call)


async def test_early_media_reaches_every_ringing_device(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    await alice.ok("call:initiate", {"to": phone.user, "callType": "audio"})
    call = (await alice.expect("call:initiated"))["callId"]
    for device in (phone, tablet):
        await device.expect("call:incoming", callId=call)

    offer, candidates = _offer(alice, phone), [_candidate(alice, phone, n) for n in range(5)]
    await alice.ok("call:offer", offer)
    for candidate in candidates:
        await alice.ok("ice:candidate", candidate)
    for device in (phone, tablet):
        got = await device.expect("call:offer", callId=call)
        assert got["offer"] == offer["offer"]
        numbers = [c["candidate"]["n"] for c in await device.inbox.expect_many("ice:candidate", 5)]
        assert numbers == list(range(5))
    await phone.ok("ice:candidate", _candidate(phone, alice, 99))
    assert (await alice.expect("ice:candidate"))["candidate"]["n"] == 99
    await end(alice, phone, tablet, call=call, reason="cancelled")


async def test_a_device_that_rings_later_gets_early_media_in_order(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    call = await ring(alice, phone)
    await alice.ok("call:offer", _offer(alice, phone))
    for number in range(20):
        await alice.ok("ice:candidate", _candidate(alice, phone, number))

    tablet = await stage.device(phone, "tablet")
    await tablet.expect("call:incoming", callId=call)
    await alice.ok("ice:candidate", _candidate(alice, phone, 20))
    for device in (phone, tablet):
        got = await device.expect("call:offer", callId=call)
        assert got["from"] == alice.user
        numbers = [c["candidate"]["n"] for c in await device.inbox.expect_many("ice:candidate", 21)]
        assert numbers == list(range(21))
    names = [r.event for r in tablet.inbox.all]
    assert names == ["user:joined", "call:incoming", "call:offer", *["ice:candidate"] * 21]
    await end(alice, phone, tablet, call=call, reason="cancelled")


async def test_an_answer_while_ringing_accepts(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    await alice.ok("call:initiate", {"to": phone.user, "callType": "audio"})
    call = (await alice.expect("call:initiated"))["callId"]
    await alice.ok("call:offer", _offer(alice, phone))
    for device in (phone, tablet):
        await device.expect("call:incoming", callId=call)
        await device.expect("call:offer", callId=call)

    answer = _answer(tablet, alice)
    await tablet.ok("call:answer", answer)
    for client in (alice, tablet):
        await client.expect("call:accepted", callId=call, by=tablet.user)
    assert (await alice.expect("call:answer"))["answer"] == answer["answer"]
    names = [r.event for r in alice.inbox.all]
    assert names.index("call:accepted") < names.index("call:answer")
    await phone.expect("call:ended", callId=call, reason="answered_elsewhere")
    await end(alice, tablet, call=call)


async def test_after_acceptance_only_the_bound_sessions_talk(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    laptop = await stage.device(alice, "laptop")
    await alice.ok("call:initiate", {"to": phone.user, "callType": "audio"})
    call = (await alice.expect("call:initiated"))["callId"]
    for device in (phone, tablet):
        await device.expect("call:incoming", callId=call)
    await phone.ok("call:accept", {"callId": call})
    for client in (alice, phone):
        await client.expect("call:accepted", callId=call)
    await tablet.expect("call:ended", callId=call, reason="answered_elsewhere")

    for outsider, peer in ((tablet, alice), (laptop, phone)):
        await outsider.refused("call:offer", _offer(outsider, peer), code="receiver_not_found")
        await outsider.refused("ice:candidate", _candidate(outsider, peer), code="receiver_not_found")
    await alice.ok("ice:candidate", _candidate(alice, phone, 1))
    await phone.expect("ice:candidate", callId=call)
    await phone.ok("ice:candidate", _candidate(phone, alice, 2))
    await alice.expect("ice:candidate", callId=call)
    await end(alice, phone, call=call)


async def test_renegotiation_goes_on_as_long_as_the_call_lives(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    for round_ in range(3):
        asker, asked = (alice, bob) if round_ % 2 else (bob, alice)
        await asker.ok("call:offer", _offer(asker, asked, round_, callType="video"))
        assert (await asked.expect("call:offer"))["offer"]["number"] == round_
        await asked.ok("call:answer", _answer(asked, asker))
        await asker.expect("call:answer", callId=call)
    await end(alice, bob, call=call)
    await alice.refused("call:offer", _offer(alice, bob), code="receiver_not_found")


async def test_what_follows_an_initiate_at_once_is_not_lost(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    await alice.emit("call:initiate", {"to": bob.user, "callType": "audio"})
    await alice.emit("call:offer", _offer(alice, bob))
    for number in range(10):
        await alice.emit("ice:candidate", _candidate(alice, bob, number))
    call = (await alice.expect("call:initiated"))["callId"]
    await bob.expect("call:incoming", callId=call)
    await bob.expect("call:offer", callId=call)
    got = await bob.inbox.expect_many("ice:candidate", 10)
    assert [c["candidate"]["n"] for c in got] == list(range(10))
    assert [r.event for r in bob.inbox.all][1:3] == ["call:incoming", "call:offer"]
    await end(alice, bob, call=call, reason="cancelled")
