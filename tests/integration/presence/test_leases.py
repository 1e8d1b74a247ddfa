"""Leases of gateways when presence itself has been away, and gateways with many sessions."""

import asyncio

import pytest
from nats.aio.msg import Msg

from services.presence import leases
from shared import subjects
from shared.clock import now_ms
from shared.messaging.timers import set_deadline
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from signalling.run.nats_server import EmbeddedNats
from tests.integration.presence.conftest import Gateway, Start
from tests.integration.presence.test_grace import eventually, sessions

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


async def are_lost(bus: Bus, *users: str) -> list[bool]:
    """For each user, whether the one session is in its grace."""
    return [session.lost_at is not None for user in users for session in await sessions(bus, user)]


async def test_all_sessions_of_a_dead_gateway_begin_their_grace_however_many_batches(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    await presence(lease_batch=2)
    await gw1.renew()
    users = [f"user{n}" for n in range(5)]
    for user in users:
        await gw1.join(user, f"s-{user}")
    await gw1.renew(leaving=True)

    async def all_lost() -> bool:
        return await are_lost(bus, *users) == [True] * 5

    await eventually(all_lost)


async def test_a_gateway_that_comes_back_between_two_batches_keeps_the_rest(
    bus: Bus, presence: Start, gw1: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next batch of a gateway that has a lease again is not due any more."""
    await presence(lease_batch=1)
    await gw1.renew()
    users = ["user1", "user2"]
    for user in users:
        await gw1.join(user, f"s-{user}")
    losing, go_on = asyncio.Event(), asyncio.Event()
    lose = leases.Leases._lose

    async def slowly(self: leases.Leases, gateway: str, batch: list[tuple[str, str]]) -> int:
        losing.set()
        await go_on.wait()
        return await lose(self, gateway, batch)

    monkeypatch.setattr(leases.Leases, "_lose", slowly)
    await gw1.renew(leaving=True)
    await asyncio.wait_for(losing.wait(), 5)
    assert not await gw1.renew(), "it is told to reassert its sessions"
    go_on.set()

    async def one_lost() -> bool:
        return any(await are_lost(bus, *users))

    await eventually(one_lost)
    await asyncio.sleep(0.3)
    assert sorted(await are_lost(bus, *users)) == [False, True]


async def test_a_renewal_says_which_lease_it_is_whether_or_not_it_is_the_first(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    """The answer to the first renewal of a new lease may be lost; the second tells of the new one, too."""
    await presence()
    first = await gw1.lease()
    assert (await gw1.lease()).since == first.since is not None
    await Bucket(bus, subjects.BUCKET_SESSIONS).unset(subjects.key_gateway("gw1"))  # it is given up
    await gw1.lease()  # as if nobody had heard the answer
    second = await gw1.lease()
    assert second.known
    assert second.since not in (None, first.since)


async def test_a_gateway_that_reasserts_while_its_sessions_are_being_lost_is_requested_to_reassert_again(
    bus: Bus, presence: Start, gw1: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await presence()
    await gw1.renew()
    alice = await gw1.join("alice", "s1")
    losing, go_on = asyncio.Event(), asyncio.Event()
    lose = leases.Leases._lose

    async def slowly(self: leases.Leases, gateway: str, batch: list[tuple[str, str]]) -> int:
        losing.set()
        await go_on.wait()
        return await lose(self, gateway, batch)

    monkeypatch.setattr(leases.Leases, "_lose", slowly)
    await Bucket(bus, subjects.BUCKET_SESSIONS).unset(subjects.key_gateway("gw1"))
    await set_deadline(bus, subjects.LEASE, "gw1", now_ms(), b"-")  # a later batch of it
    await asyncio.wait_for(losing.wait(), 5)
    lease = await gw1.lease()
    assert not lease.known
    await gw1.reassert("alice", alice, "s1")
    go_on.set()

    async def lost() -> bool:
        return await are_lost(bus, "alice") == [True]

    await eventually(lost)

    async def another_lease() -> bool:
        return (await gw1.lease()).since != lease.since

    await eventually(another_lease, 5)
    await gw1.reassert("alice", alice, "s1")
    assert await are_lost(bus, "alice") == [False]


async def test_no_lease_ends_right_after_a_reconnect(
    nats_server: EmbeddedNats, bus: Bus, presence: Start, gw1: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline has come while NATS was away, and it is not back yet: it may be on its way."""
    await presence()
    await gw1.renew()
    await gw1.join("alice", "s1")
    await set_deadline(bus, subjects.LEASE, "gw1", now_ms() + 500)
    nats_server.kill()
    await asyncio.sleep(0.7)
    nats_server.start()

    async def due_again() -> bool:
        """Presence has moved the deadline ahead, or has given the gateway up."""
        if not bus.connected:
            return False
        lease = await Bucket(bus, subjects.BUCKET_SESSIONS).get(subjects.key_gateway("gw1"), fresh=True)
        return not lease.value or bool(moved)

    moved: list[bytes] = []

    async def on_set(msg: Msg) -> None:
        moved.append(msg.data)

    await bus.subscribe(subjects.deadline_set(subjects.LEASE, "gw1"), on_set)
    await eventually(due_again, 15)
    assert await are_lost(bus, "alice") == [False]
    assert await gw1.renew(), "it still counts as alive"
