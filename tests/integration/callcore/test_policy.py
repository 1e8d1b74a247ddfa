"""Who may call whom: asked where that is wanted, obeyed, and not waited for longer than it takes."""

import asyncio
import statistics
import time
from typing import Any

import pytest
import pytest_asyncio

from shared.errors import AlreadyInCall, SignallingError, Unavailable, UserNotFound
from shared.messaging import policy_client
from shared.nats.connection import Bus
from tests.integration.callcore.conftest import Start, World
from tests.support.logged import Logged
from tests.support.policy import PolicyService

SLOW = policy_client.TIMEOUT_SECONDS * 8


@pytest_asyncio.fixture
async def pair(world: World) -> World:
    """ann and bob are there."""
    for user in ("ann", "bob"):
        await world.online(user, "phone")
    return world


async def answering(bus: Bus) -> PolicyService:
    service = PolicyService()
    await service.answer(bus.client)
    return service


@pytest.mark.parametrize("mode", ["optional", "required"])
async def test_the_policy_reply_decides(pair: World, bus: Bus, callcore: Start, mode: str) -> None:
    service = await answering(bus)
    await callcore(policy=mode)
    service.blocked.add(("ann", "bob"))
    with pytest.raises(UserNotFound):
        await pair.initiate("ann-phone", "bob")
    assert not await pair.reserved("ann") and not await pair.reserved("bob")
    assert pair.to("bob-phone") == []
    assert (await pair.initiate("bob-phone", "ann")).call, "the other way nobody is blocked"
    assert service.asked == [
        ("may_call", {"caller": "ann", "callee": "bob"}),
        ("may_call", {"caller": "bob", "callee": "ann"}),
    ]


async def test_off_sends_no_policy_request(pair: World, bus: Bus, callcore: Start) -> None:
    service = await answering(bus)
    service.blocked.add(("ann", "bob"))
    await callcore()
    assert (await pair.initiate("ann-phone", "bob")).call
    assert service.asked == []


async def test_without_anybody_to_ask_optional_allows_at_once(
    pair: World, callcore: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_client, "TIMEOUT_SECONDS", 2.0)
    await callcore(policy="optional")
    begun = time.monotonic()
    assert (await pair.initiate("ann-phone", "bob")).call
    assert time.monotonic() - begun < 2.0


async def test_required_without_a_policy_service_is_unavailable(pair: World, callcore: Start) -> None:
    await callcore(policy="required")
    with pytest.raises(Unavailable):
        await pair.initiate("ann-phone", "bob")
    assert not await pair.reserved("ann") and not await pair.reserved("bob")


@pytest.mark.parametrize("raw", [b"", b"no", b"{}", b"[]", b'{"allowed": "false"}', b'{"allowed": 0}'])
async def test_an_invalid_policy_reply_counts_as_none(
    pair: World, bus: Bus, callcore: Start, raw: bytes
) -> None:
    service = await answering(bus)
    service.raw = raw
    await callcore(policy="required")
    with pytest.raises(Unavailable):
        await pair.initiate("ann-phone", "bob")


async def test_optional_allows_without_a_valid_reply(pair: World, bus: Bus, callcore: Start) -> None:
    service = await answering(bus)
    service.raw = b'{"allowed": "false"}'
    await callcore(policy="optional")
    assert (await pair.initiate("ann-phone", "bob")).call


@pytest.mark.parametrize(("mode", "rings"), [("optional", True), ("required", False)])
async def test_a_slow_answer_is_none(pair: World, bus: Bus, callcore: Start, mode: str, rings: bool) -> None:
    service = await answering(bus)
    service.delay = SLOW
    service.blocked.add(("ann", "bob"))
    await callcore(policy=mode)
    begun = time.monotonic()
    if rings:
        await pair.initiate("ann-phone", "bob")
    else:
        with pytest.raises(Unavailable):
            await pair.initiate("ann-phone", "bob")
    assert policy_client.TIMEOUT_SECONDS <= time.monotonic() - begun < SLOW


async def _refusal(world: World, session: str, to: str) -> tuple[dict[str, Any], float]:
    begun = time.monotonic()
    with pytest.raises(SignallingError) as raised:
        await world.initiate(session, to)
    return raised.value.to_wire(), time.monotonic() - begun


async def test_blocked_reads_as_not_there_in_words_and_in_time(
    pair: World, bus: Bus, callcore: Start
) -> None:
    """Whether bob is there, busy or away: who is blocked learns nothing, and waits as long as for nobody."""
    service = await answering(bus)
    service.delay = policy_client.TIMEOUT_SECONDS / 2
    service.blocked |= {("ann", "bob"), ("ann", "away")}
    await callcore(policy="required")
    answers = [await _refusal(pair, "ann-phone", to) for to in ("bob", "away", "nobody")]
    await pair.online("cem", "phone")
    await pair.initiate("cem-phone", "bob")
    answers.append(await _refusal(pair, "ann-phone", "bob"))
    assert [wire for wire, _ in answers] == [UserNotFound().to_wire()] * 4
    assert all(seconds >= service.delay for _, seconds in answers), "asked about each of them alike"


ROUNDS = 30
TELLING = 0.004
"""Seconds by which answers may differ in the middle: the policy service takes 20 ms, and to leave it out would show."""


@pytest.mark.alone
async def test_the_time_of_a_refusal_does_not_reveal_who_is_online(
    pair: World, bus: Bus, callcore: Start
) -> None:
    """By medians of questions asked in turn, so that what the machine does besides meets each kind alike."""
    service = await answering(bus)
    service.delay = 0.02
    service.blocked |= {("ann", to) for to in ("bob", "busy", "away")}
    for user in ("busy", "cem"):
        await pair.online(user, "phone")
    await callcore(policy="required")
    await pair.initiate("cem-phone", "busy")
    took: dict[str, list[float]] = {to: [] for to in ("bob", "busy", "away", "nobody", "nobody-else")}
    wires = []
    for _ in range(ROUNDS):
        for to, times in took.items():
            wire, seconds = await _refusal(pair, "ann-phone", to)
            wires.append(wire)
            times.append(seconds)
    assert wires == [UserNotFound().to_wire()] * len(wires)
    middle = {to: statistics.median(times) for to, times in took.items()}
    assert max(middle.values()) - min(middle.values()) < TELLING, middle


async def test_a_callee_may_answer_by_calling(pair: World, bus: Bus, callcore: Start) -> None:
    """Glare: the call is there already, and it was the other who wanted it."""
    service = await answering(bus)
    service.blocked.add(("ann", "bob"))
    await callcore(policy="required")
    call = (await pair.initiate("bob-phone", "ann")).call
    assert (await pair.initiate("ann-phone", "bob")).call == call
    await pair.expect("bob-phone", "call:accepted")


async def test_a_caller_in_a_call_gets_already_in_call_also_for_a_blocking_callee(
    pair: World, bus: Bus, callcore: Start
) -> None:
    service = await answering(bus)
    service.blocked.add(("ann", "cem"))
    await callcore(policy="required")
    await pair.initiate("ann-phone", "bob")
    with pytest.raises(AlreadyInCall):
        await pair.initiate("ann-phone", "cem")


async def test_many_missing_replies_are_logged_in_one_line(
    pair: World, callcore: Start, logged: Logged
) -> None:
    await callcore(policy="required")

    async def fail() -> None:
        with pytest.raises(Unavailable):
            await pair.initiate("ann-phone", "bob")

    await asyncio.gather(*(fail() for _ in range(20)))
    assert logged.count("no answer from the policy service") == 1
