"""A stream of relays in both directions while a callcore or NATS dies: each gets there once, and in order."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.support.raw_client import RawClient
from tests.support.two_gateways import PATIENCE, System, differences

pytestmark = pytest.mark.timeout(120)

PAIRS = 4
EVERY_SECONDS = 0.01


class Talk:
    """One call: both sides send candidates all the time, numbered from 0, without asking for acknowledgements."""

    def __init__(self, alice: RawClient, bob: RawClient, call: str) -> None:
        self.sides = (alice, bob)
        self._call = call
        self._sent = [0, 0]
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._send(0, 1)), asyncio.create_task(self._send(1, 0))]

    async def _send(self, who: int, to: int) -> None:
        sender, receiver = self.sides[who], self.sides[to]
        while not self._over.is_set():
            candidate = {"n": self._sent[who]}
            payload = {"candidate": candidate, "from": sender.user, "to": receiver.user, "callId": self._call}
            await sender.emit("ice:candidate", payload)
            self._sent[who] += 1
            await asyncio.sleep(EVERY_SECONDS)

    async def finish(self) -> None:
        """Send no more; everything gets there once, in order, and nobody is told anything else."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        for receiver, sent in zip(self.sides, reversed(self._sent), strict=True):
            got = await receiver.inbox.expect_many("ice:candidate", sent, timeout=PATIENCE)
            numbers = [message["candidate"]["n"] for message in got]
            assert numbers == list(range(sent)), differences(numbers, sent)
            assert not any("relay" in message for message in got)
            seqs = [message["seq"] for message in got]
            assert seqs == sorted(set(seqs))
        for client in self.sides:
            await client.quiet()
            await client.close()


async def _talk(system: System, number: int) -> Talk:
    alice, bob = RawClient(f"alice{number}"), RawClient(f"bob{number}")
    for client, gateway in ((alice, 0), (bob, 1)):
        await client.connect(system.gateways[gateway].url)
        await client.join(client.name)
    call = (await alice.ok("call:initiate", {"to": bob.name, "callType": "audio"}))["callId"]
    await bob.expect("call:incoming")
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted")
    await alice.expect("call:initiated")
    return Talk(alice, bob, call)


@asynccontextmanager
async def _talking(system: System) -> AsyncIterator[None]:
    """Calls in which both sides talk before, while and after something happens."""
    talks = [await _talk(system, number) for number in range(PAIRS)]
    for talk in talks:
        talk.start()
    await asyncio.sleep(0.5)
    yield
    await asyncio.sleep(1.0)
    await asyncio.gather(*(talk.finish() for talk in talks))


async def _kill_a_callcore(system: System) -> None:
    system.callcores[0].kill()


async def _kill_both_callcores(system: System) -> None:
    for callcore in system.callcores:
        callcore.kill()
    await asyncio.sleep(0.5)
    for callcore in system.callcores:
        callcore.start()


async def _stop_a_callcore(system: System) -> None:
    assert await asyncio.to_thread(system.callcores[0].stop) == 0
    system.callcores[0].start()
    await asyncio.sleep(3)


async def _pause_a_callcore(system: System) -> None:
    """Longer than its beats are waited for; what it finds when it comes back is long done."""
    system.callcores[0].signal(signal.SIGSTOP)
    await asyncio.sleep(6)
    system.callcores[0].signal(signal.SIGCONT)
    await asyncio.sleep(2)


async def _pause_a_callcore_shortly(system: System) -> None:
    """Shorter than its beats are waited for."""
    system.callcores[0].signal(signal.SIGSTOP)
    await asyncio.sleep(2.6)
    system.callcores[0].signal(signal.SIGCONT)


async def _restart_nats(system: System) -> None:
    for _ in range(3):
        system.nats.kill()
        await asyncio.sleep(0.3)
        await asyncio.to_thread(system.nats.start)
        await asyncio.sleep(1.5)


FAULTS: tuple[Callable[[System], Awaitable[None]], ...] = (
    _kill_a_callcore,
    _kill_both_callcores,
    _stop_a_callcore,
    _pause_a_callcore,
    _pause_a_callcore_shortly,
    _restart_nats,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
async def test_every_relay_once_and_in_order(
    system: System, fault: Callable[[System], Awaitable[None]]
) -> None:
    async with _talking(system):
        await fault(system)
