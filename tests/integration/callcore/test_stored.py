"""What call control leaves in its bucket, in which order, and for how long."""

from base64 import b64decode

import pytest

from services.callcore.store import ENDED_TTL_SECONDS, FORMING_MS, Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import Reservation
from shared.ids import new_id
from shared.nats import streams
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, Conflict
from tests.integration.callcore.conftest import Start, World

TTL = f"Nats-TTL: {ENDED_TTL_SECONDS}s\r\n"


async def headers(bus: Bus, key: str) -> str:
    """The headers with which the record at a key was stored."""
    query = {"last_by_subj": f"$KV.{subjects.BUCKET_CALLS}.{key}"}
    answer = await streams.api(bus, f"STREAM.MSG.GET.KV_{subjects.BUCKET_CALLS}", query, timeout=2.0)
    return b64decode(answer["message"]["hdrs"]).decode()


async def begin(world: World) -> str:
    """ann calls bob."""
    await world.online("ann", "phone")
    await world.online("bob", "phone")
    return (await world.initiate("ann-phone", "bob")).call


@pytest.mark.parametrize("end", ["hangup", "cancelled", "rejected", "left"])
async def test_the_record_of_an_ended_call_expires(bus: Bus, world: World, callcore: Start, end: str) -> None:
    await callcore()
    call = await begin(world)
    assert "Nats-TTL" not in await headers(bus, subjects.key_call(call))
    if end == "rejected":
        await world.reject("bob-phone", call)
    elif end == "cancelled":
        await world.end("ann-phone", call)
    else:
        await world.accept("bob-phone", call)
        assert "Nats-TTL" not in await headers(bus, subjects.key_call(call))
        await (world.end("bob-phone", call) if end == "hangup" else world.left("ann-phone"))
    assert TTL in await headers(bus, subjects.key_call(call))
    for user in ("ann", "bob"):
        assert not await world.reserved(user)
        assert "KV-Operation: DEL\r\nNats-TTL: " in await headers(bus, subjects.key_user(user))


async def test_the_record_of_a_call_that_times_out_goes_by_itself(
    bus: Bus, world: World, callcore: Start
) -> None:
    await callcore(ring_timeout_seconds=1)
    call = await begin(world)
    await world.expect("ann-phone", "call:ended")
    assert TTL in await headers(bus, subjects.key_call(call))


async def test_the_tombstone_of_a_void_call_expires(bus: Bus, world: World, callcore: Start) -> None:
    await callcore()
    store = Store(world.calls, world.sessions)
    reservation = Reservation(call=new_id(), peer="bob", since=now_ms() - FORMING_MS)
    assert not await store.confirm_void(reservation, reservation.since + FORMING_MS - 1), (
        "its call may be about to come about"
    )
    assert await store.confirm_void(reservation, now_ms())
    assert TTL in await headers(bus, subjects.key_call(reservation.call))
    with pytest.raises(Conflict):
        await world.calls.put(subjects.key_call(reservation.call), b"{}", ABSENT)
    assert await store.confirm_void(reservation, now_ms()), "whoever asks again hears the same"


@pytest.mark.parametrize("settle", [False, True])
async def test_an_end_that_died_before_it_released_the_users_is_finished_when_it_is_repeated(
    world: World, callcore: Start, settle: bool
) -> None:
    await callcore()
    call, request = await begin(world), new_id()
    await world.end("ann-phone", call, request_id=request)
    for user, peer in (("ann", "bob"), ("bob", "ann")):  # as if they had not been released
        await world.calls.set(
            subjects.key_user(user), Reservation(call=call, peer=peer, since=now_ms()).dump()
        )
    await world.end("ann-phone", call, request_id=request, settle=settle)
    assert not await world.reserved("ann") and not await world.reserved("bob")


async def test_an_end_that_died_before_it_released_the_users_keeps_no_user_from_calling(
    world: World, callcore: Start
) -> None:
    await callcore()
    call = await begin(world)
    await world.end("ann-phone", call)
    for user, peer in (("ann", "bob"), ("bob", "ann")):
        await world.calls.set(
            subjects.key_user(user), Reservation(call=call, peer=peer, since=now_ms()).dump()
        )
    await world.online("cem", "phone")
    again = (await world.initiate("cem-phone", "bob")).call
    assert (await world.expect("bob-phone", "call:incoming")).body["callId"] != again
    assert world.to("bob-phone", "call:incoming")[-1].body["callId"] == again


async def test_the_deadline_of_a_call_is_set_before_the_call_is_created(
    bus: Bus, world: World, callcore: Start
) -> None:
    """Whoever dies between the two leaves a deadline without a call, which does nothing, and no call that rings on."""
    await callcore(rate_limit=False)  # whose counts are in the same bucket
    written: list[str] = []
    for subject in (f"$KV.{subjects.BUCKET_CALLS}.>", subjects.deadline_set(subjects.RING, "*")):
        await bus.subscribe_direct(subject, lambda subject, *_: written.append(subject))
    await bus.flush()
    call = await begin(world)
    await bus.flush()
    prefix = f"$KV.{subjects.BUCKET_CALLS}."
    assert written == [
        prefix + subjects.key_user("ann"),
        prefix + subjects.key_user("bob"),
        subjects.deadline_set(subjects.RING, call),
        prefix + subjects.key_call(call),
    ]
