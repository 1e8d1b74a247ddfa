"""Who goes first when many come at once."""

import asyncio
import itertools

import pytest

from services.gateway.limits.lifo_gate import LifoGate, TickGate


async def _arrive(door: TickGate, name: int, log: list[int], *, there: bool = True) -> bool:
    through = await door.through(lambda: there)
    if through:
        log.append(name)
    return through


async def test_one_waiter_is_admitted_per_tick_newest_first() -> None:
    door, let_in = TickGate(100), list[int]()
    tasks = [asyncio.create_task(_arrive(door, n, let_in)) for n in range(10)]
    counts = []
    while len(let_in) < 10:
        await asyncio.sleep(0)
        counts.append(len(let_in))
    assert let_in == [0, *range(9, 0, -1)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(counts))
    assert await asyncio.gather(*tasks) == [True] * 10
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await door.through(lambda: True), "nobody is before it any more"


async def test_a_later_waiter_is_admitted_first() -> None:
    door, let_in = TickGate(1_000), list[int]()
    herd = [asyncio.create_task(_arrive(door, n, let_in)) for n in range(500)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    turns = 0
    late = asyncio.create_task(_arrive(door, 999, let_in))
    while 999 not in let_in:
        await asyncio.sleep(0)
        turns += 1
    assert turns <= 4
    await asyncio.gather(late, *herd)


async def test_a_waiter_whose_client_is_gone_takes_no_slot() -> None:
    door, let_in = TickGate(100), list[int]()
    gone = [asyncio.create_task(_arrive(door, n, let_in, there=n in (0, 1))) for n in range(50)]
    assert [n for n, through in enumerate(await asyncio.gather(*gone)) if through] == [0, 1]
    cancelled = [asyncio.create_task(_arrive(door, n, let_in)) for n in range(3)]
    await asyncio.sleep(0)
    cancelled[2].cancel()
    assert await asyncio.gather(*cancelled[:2]) == [True, True]


async def test_the_oldest_waiters_are_refused_when_too_many_wait() -> None:
    door, let_in = TickGate(5), list[int]()
    tasks = [asyncio.create_task(_arrive(door, n, let_in)) for n in range(10)]
    through = await asyncio.gather(*tasks)
    assert [n for n, yes in enumerate(through) if not yes] == [1, 2, 3, 4]


async def test_concurrency_is_limited_to_the_slots() -> None:
    gate, order, now, most = LifoGate(3), list[int](), 0, 0

    async def work(n: int) -> None:
        nonlocal now, most
        async with gate.slot():
            now, most = now + 1, max(most, now + 1)
            order.append(n)
            await asyncio.sleep(0.001)
            now -= 1

    await asyncio.gather(*(work(n) for n in range(20)))
    assert most == 3 and now == 0
    assert order[:4] == [0, 1, 2, 19], "then the one that came last"


async def test_a_slot_is_released_on_errors_and_cancellation() -> None:
    gate = LifoGate(1)
    with pytest.raises(ZeroDivisionError):
        async with gate.slot():
            raise ZeroDivisionError
    held = gate.slot()
    await held.__aenter__()
    waiting = [asyncio.create_task(gate.slot().__aenter__()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await held.__aexit__(None, None, None)
    await waiting[0]
    cancelled = asyncio.create_task(gate.slot().__aenter__())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
