"""Users who were taken for a call whose placing was given up are free, whoever notices it first."""

import asyncio
from typing import Any

import pytest

from services.callcore.store import Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import Reservation
from shared.contracts.presence import Session
from shared.errors import CallNotFound, Unavailable, UserNotFound
from shared.messaging.rpc import RpcClient
from shared.nats.kv import ABSENT
from tests.integration.callcore.conftest import Start, World

TRY_SECONDS = 0.5


@pytest.fixture
async def hasty(world: World, callcore: Start) -> World:
    """One instance, and a gateway whose tries are short."""
    await callcore()
    world.client = RpcClient(world.bus, timeout=TRY_SECONDS)
    for user in ("ann", "bob", "cem"):
        await world.online(user, "phone")
    return world


async def held_by_an_earlier_try(world: World, call: str, *users: str) -> None:
    """An instance took these users for a call of ann to bob, and died."""
    for user in users:
        hold = Reservation(call=call, peer="bob" if user == "ann" else "ann", since=now_ms())
        await world.calls.put(subjects.key_user(user), hold.dump(), ABSENT)


async def nobody_is_held(world: World) -> None:
    for user in ("ann", "bob"):
        assert not await world.reserved(user), user


async def test_a_late_try_releases_its_reservations(hasty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, asleep = Store.sessions, True

    def slow(store: Store, user: str, *, fresh: bool) -> asyncio.Future[tuple[Session, ...]]:
        async def read() -> tuple[Session, ...]:
            if fresh and asleep:
                await asyncio.sleep(3 * TRY_SECONDS)
            return await sessions(store, user, fresh=fresh)

        return asyncio.ensure_future(read())

    monkeypatch.setattr(Store, "sessions", slow)
    with pytest.raises(Unavailable):
        await hasty.initiate("ann-phone", "bob")
    asleep = False
    assert await hasty.reserved("ann")
    await asyncio.sleep(4 * TRY_SECONDS)
    await nobody_is_held(hasty)
    assert not hasty.to("bob-phone")
    await hasty.initiate("bob-phone", "ann")


@pytest.mark.parametrize("taken", [("ann",), ("bob",), ("ann", "bob")])
async def test_settling_abandons_a_call_that_was_not_created(hasty: World, taken: tuple[str, ...]) -> None:
    await held_by_an_earlier_try(hasty, "c1", *taken)
    with pytest.raises(CallNotFound):
        await hasty.initiate("ann-phone", "bob", request_id="r1", call="c1", settle=True)
    await nobody_is_held(hasty)
    with pytest.raises(Unavailable):  # whoever was paused in the middle of it
        await hasty.initiate("ann-phone", "bob", request_id="r1", call="c1")
    await nobody_is_held(hasty)
    assert not hasty.to("bob-phone")
    await hasty.initiate("ann-phone", "bob")
    await hasty.expect("bob-phone", "call:incoming")


async def test_a_refusal_releases_the_reservations_of_an_earlier_try(hasty: World) -> None:
    await held_by_an_earlier_try(hasty, "c1", "ann", "bob")
    await hasty.online("bob")
    with pytest.raises(UserNotFound):
        await hasty.initiate("ann-phone", "bob", request_id="r1", call="c1")
    await nobody_is_held(hasty)


async def test_the_last_try_releases_the_reservations_of_an_earlier_one(
    hasty: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise Unavailable

    await held_by_an_earlier_try(hasty, "c1", "ann", "bob")
    monkeypatch.setattr("services.callcore.calls.call_setup.CallSetup._build", fails)
    with pytest.raises(Unavailable):
        await hasty.initiate("ann-phone", "bob", call="c1")
    assert await hasty.reserved("ann"), "another try may be at it"
    monkeypatch.setattr("shared.messaging.rpc.TRIES", 1)
    ask = hasty.client._bus.request

    async def as_the_last(subject: str, payload: bytes, **more: Any) -> Any:
        return await ask(subject, payload.replace(b'"attempt":1', b'"attempt":2'), **more)

    monkeypatch.setattr(hasty.client._bus, "request", as_the_last)
    with pytest.raises(Unavailable):
        await hasty.initiate("ann-phone", "bob", call="c1")
    await nobody_is_held(hasty)
