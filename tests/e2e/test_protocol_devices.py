"""The protocol, row by row: users with several devices."""

import pytest

from tests.support.client import Client
from tests.support.scenario import Stage, end, ring

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


async def _ring_all(caller: Client, *devices: Client) -> str:
    await caller.ok("call:initiate", {"to": devices[0].user, "callType": "video"})
    call: str = (await caller.expect("call:initiated"))["callId"]
    for device in devices:
        await device.expect("call:incoming", callId=call, from_=caller.user)
    return call


async def test_all_devices_ring_and_the_first_to_accept_wins(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet, desktop = await stage.device(phone, "tablet"), await stage.device(phone, "desktop")
    call = await _ring_all(alice, phone, tablet, desktop)

    await tablet.ok("call:accept", {"callId": call})
    for client in (alice, tablet):
        await client.expect("call:accepted", callId=call, by=phone.user)
    for device in (phone, desktop):
        ended = await device.expect("call:ended")
        expected = {"callId": call, "by": phone.user, "reason": "answered_elsewhere", "seq": ended["seq"]}
        assert ended == expected
    await phone.refused("call:accept", {"callId": call}, code="invalid_state")
    await end(alice, tablet, call=call)
    await phone.refused("call:accept", {"callId": call}, code="call_not_found")


async def test_reject_on_one_device_stops_all(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    call = await _ring_all(alice, phone, tablet)

    await phone.ok("call:reject", {"callId": call, "reason": "busy"})
    for client in (alice, phone):
        rejected = await client.expect("call:rejected")
        assert rejected == {"callId": call, "by": phone.user, "reason": "busy", "seq": rejected["seq"]}
    await tablet.expect("call:ended", callId=call, by=phone.user, reason="rejected_elsewhere")


async def test_end_on_one_device_while_ringing_stops_all(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    call = await _ring_all(alice, phone, tablet)

    await end(phone, alice, call=call, reason="rejected")
    await tablet.expect("call:ended", callId=call, by=phone.user, reason="rejected_elsewhere")


async def test_cancel_stops_all_devices(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    call = await _ring_all(alice, phone, tablet)
    await end(alice, phone, tablet, call=call, reason="cancelled")


async def test_ring_timeout_stops_all_devices(hasty: Stage) -> None:
    alice, phone = await hasty.many("alice", "bob")
    tablet = await hasty.device(phone, "tablet")
    call = await _ring_all(alice, phone, tablet)
    for client in (alice, phone, tablet):
        await client.expect("call:ended", callId=call, by="server", reason="timeout")


async def test_a_device_that_joins_while_its_user_is_rung_rings(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    await alice.ok("call:initiate", {"to": phone.user, "callType": "video", "metadata": {"topic": "x"}})
    first = await phone.expect("call:incoming")
    await alice.expect("call:initiated")

    tablet = await stage.device(phone, "tablet")
    late = await tablet.expect("call:incoming")
    assert 0 < late["expiresInMs"] < first["expiresInMs"]
    assert late | {"seq": 0, "expiresInMs": 0} == first | {"seq": 0, "expiresInMs": 0}
    await tablet.ok("call:accept", {"callId": late["callId"]})
    for client in (alice, tablet):
        await client.expect("call:accepted", callId=late["callId"], by=phone.user)
    await phone.expect("call:ended", callId=late["callId"], reason="answered_elsewhere")
    await end(tablet, alice, call=late["callId"])


async def test_only_the_calling_device_of_the_caller_is_told(stage: Stage) -> None:
    phone, bob = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    call = await ring(phone, bob)
    await bob.ok("call:accept", {"callId": call})
    for client in (phone, bob):
        await client.expect("call:accepted", callId=call)
    await end(bob, phone, call=call)
    await tablet.quiet()


async def test_another_device_of_a_party_may_end_the_call(stage: Stage) -> None:
    phone, bob = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    call = await ring(phone, bob)
    await bob.ok("call:accept", {"callId": call})
    for client in (phone, bob):
        await client.expect("call:accepted", callId=call)
    await end(tablet, phone, bob, call=call)


async def test_a_caller_on_a_second_device_is_busy(stage: Stage) -> None:
    phone, bob, carol = await stage.many("alice", "bob", "carol")
    tablet = await stage.device(phone, "tablet")
    call = await ring(phone, bob)
    await tablet.refused("call:initiate", {"to": carol.user, "callType": "audio"}, code="already_in_call")
    await end(phone, bob, call=call, reason="cancelled")


async def test_other_devices_ring_on_when_one_leaves(stage: Stage) -> None:
    alice, phone = await stage.many("alice", "bob")
    tablet = await stage.device(phone, "tablet")
    call = await _ring_all(alice, phone, tablet)
    await phone.disconnect()
    await tablet.ok("call:accept", {"callId": call})
    for client in (alice, tablet):
        await client.expect("call:accepted", callId=call, by=tablet.user)
    await end(alice, tablet, call=call)
