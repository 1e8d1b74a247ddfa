"""Something dies amid fifty calls: nobody loses a call, a message or hears one twice, and every call ends once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.phone import GIVE_UP_SECONDS, Phone
from tests.support.raw_client import RawClient
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300), pytest.mark.large]

TALKING, RINGING = 25, 25
ROLLING = 100
NODES_TALKING, NODES_RINGING, NODES_PLACING = 25, 24, 10
SECONDS_BEFORE, SECONDS_AFTER = 1.5, 3.0
SETTINGS: dict[str, Any] = {"RESUME_WINDOW_SECONDS": "15", "SWEEP_SECONDS": "3", "DRAIN_SECONDS": "3"}
EVERY_SECONDS = 0.2
"""How often each side of a call sends a candidate."""


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> AsyncIterator[Cluster]:
    cluster = await clusters.get("2x2x2", **SETTINGS)
    yield cluster
    await _clean(cluster)


@pytest_asyncio.fixture(loop_scope="session")
async def replicated(clusters: Clusters) -> AsyncIterator[Cluster]:
    """On three NATS servers."""
    cluster = await clusters.get("2x2x2x3", **SETTINGS)
    yield cluster
    await _clean(cluster)


async def _clean(cluster: Cluster) -> None:
    """Nothing is left of the test, and no log complains."""
    await cluster.ready()
    await cluster.assert_quiet(30)
    cluster.allowed = ("reconciled: ",)
    cluster.check_logs()
    try:
        async with asyncio.timeout(30):
            while left := await cluster.sessions():
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"left behind: {left[:10]} ({len(left)})") from None


class Pair:
    """Two phones on different gateways, and the call between them.

    ``callee``: makes the sockets of bob's. ``patience``: how long both try to come back, in seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        number: int,
        token: str,
        callee: Callable[[str], RawClient] = RawClient,
        patience: float = GIVE_UP_SECONDS,
    ) -> None:
        urls = [gateway.url for gateway in cluster.gateways]
        first = number % len(urls)
        self.alice = Phone(f"a{number}-{token}", urls[first:] + urls[:first], patience=patience)
        self.bob = Phone(
            f"b{number}-{token}", urls[first + 1 :] + urls[: first + 1], patience=patience, socket=callee
        )
        self.phones = (self.alice, self.bob)
        self.call = ""
        self.sent = {self.alice: 0, self.bob: 0}

    async def ring(self) -> None:
        await self.join()
        await self.place()

    async def join(self) -> None:
        await asyncio.gather(*(phone.start() for phone in self.phones))

    async def place(self) -> None:
        ack = await self.alice.ok("call:initiate", {"to": self.bob.user, "callType": "audio"})
        self.call = ack["callId"]
        await self.bob.until("call:incoming")

    async def accept(self) -> None:
        await self.bob.ok("call:accept", {"callId": self.call})
        for phone in self.phones:
            await phone.until("call:accepted")

    async def talk(self, stop: asyncio.Event) -> None:
        """Both sides send until told to stop; each waits for the answer before it sends the next."""

        async def speak(by: Phone, to: Phone) -> None:
            while not stop.is_set():
                candidate = {
                    "candidate": {"n": self.sent[by]}, "from": by.user, "to": to.user, "callId": self.call
                }  # fmt: skip
                await by.ok("ice:candidate", candidate)
                self.sent[by] += 1
                await asyncio.sleep(EVERY_SECONDS)

        await asyncio.gather(speak(self.alice, self.bob), speak(self.bob, self.alice))

    async def check(self, *, exactly: bool) -> None:
        """What each side sent, the other has got: once and in order; ``exactly`` or with some sent again."""
        for by, to in ((self.alice, self.bob), (self.bob, self.alice)):
            wanted = self.sent[by]
            async with asyncio.timeout(20):
                while wanted and (not to.numbers or to.numbers[-1] < wanted - 1):
                    await asyncio.sleep(0.05)
            if exactly or not by.again:
                assert to.numbers == list(range(wanted)), f"{to.user} of {by.user}"
            else:
                assert list(dict.fromkeys(to.numbers)) == list(range(wanted)), f"{to.user} of {by.user}"
                twice = sum(a == b for a, b in pairwise(to.numbers))
                assert twice <= by.again and twice == len(to.numbers) - wanted

    async def end(self) -> None:
        await self.alice.ok("call:end", {"callId": self.call})
        for phone in self.phones:
            await phone.until("call:ended")
        await asyncio.sleep(0.2)
        for phone in self.phones:
            ends = [(e["callId"], e["by"], e["reason"]) for e in phone.events["call:ended"]]
            assert ends == [(self.call, self.alice.user, "hangup")], phone.user
            for turn in ("call:initiated", "call:incoming", "call:accepted"):
                assert len(phone.events[turn]) <= 1, (phone.user, turn)

    async def seen(self, *, in_call: bool) -> None:
        """Each sees of the other that it is there, and whether it is in a call."""
        for by, of in ((self.alice, self.bob), (self.bob, self.alice)):
            status = await by.ok("user:status", {"userId": of.user})
            assert (status["isOnline"], status["isInCall"]) == (True, in_call), of.user

    async def stop(self) -> None:
        await asyncio.gather(*(phone.stop() for phone in self.phones))


async def _kill(cluster: Cluster, name: str) -> None:
    cluster.kill(name)


async def _pause(cluster: Cluster, name: str) -> None:
    cluster.pause_one(name)
    await asyncio.sleep(6)
    cluster.resume_one(name)


async def _nats(cluster: Cluster, _: str) -> None:
    cluster.kill_nats()
    await asyncio.sleep(0.5)
    cluster.restart_nats()


FAULTS: dict[str, tuple[Callable[[Cluster, str], Awaitable[None]], str]] = {
    "gateway killed": (_kill, "gw-1"),
    "callcore 1 killed": (_kill, "cc-1"),
    "callcore 2 killed": (_kill, "cc-2"),
    "presence 1 killed": (_kill, "pr-1"),
    "presence 2 killed": (_kill, "pr-2"),
    "callcore paused 6 s": (_pause, "cc-1"),
    "nats killed and restarted": (_nats, ""),
}


def _measured(what: str, pairs: list[Pair], folder: Path, **more: float) -> None:
    """Note how long it was noticed: the longest silence between two candidates, each 0.2 s after the other."""
    silences = sorted(phone.silence for pair in pairs for phone in pair.phones)
    line = {
        "fault": what,
        "silence_p50_s": round(silences[len(silences) // 2], 2),
        "silence_max_s": round(silences[-1], 2),
        "resumed": sum(phone.resumes[True] for pair in pairs for phone in pair.phones),
        "refused": sum(sum(phone.refused.values()) for pair in pairs for phone in pair.phones),
        "sent_again": sum(phone.again for pair in pairs for phone in pair.phones),
        **more,
    }
    with (folder / "faults.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_amid_calls(cluster: Cluster, fault: str) -> None:
    strike, victim = FAULTS[fault]
    token = fault.replace(" ", "-")
    pairs = [Pair(cluster, n, token) for n in range(TALKING + RINGING)]
    talking, ringing = pairs[:TALKING], pairs[TALKING:]
    for first in range(0, len(pairs), 25):
        await asyncio.gather(*(pair.ring() for pair in pairs[first : first + 25]))
    await asyncio.gather(*(pair.accept() for pair in talking))
    stop = asyncio.Event()
    traffic = asyncio.gather(*(pair.talk(stop) for pair in talking))
    await asyncio.sleep(SECONDS_BEFORE)
    await strike(cluster, victim)
    await asyncio.sleep(SECONDS_AFTER)
    await asyncio.gather(*(pair.accept() for pair in ringing))
    await asyncio.gather(*(pair.seen(in_call=True) for pair in pairs))
    stop.set()
    await traffic
    # A client whose gateway was killed cannot know what of the unanswered was taken: it may say that twice.
    await asyncio.gather(*(pair.check(exactly=victim != "gw-1") for pair in talking))
    assert not any(phone.resumes[False] for pair in pairs for phone in pair.phones)
    _measured(fault, talking, cluster.folder)
    await asyncio.gather(*(pair.end() for pair in pairs))
    await asyncio.gather(*(pair.seen(in_call=False) for pair in pairs))
    await asyncio.gather(*(pair.stop() for pair in pairs))
    if victim and not cluster.running(victim):
        cluster.restart(victim)


async def test_every_process_is_replaced_under_live_calls(cluster: Cluster) -> None:
    pairs = [Pair(cluster, n, "rolling") for n in range(ROLLING)]
    for first in range(0, len(pairs), 25):
        await asyncio.gather(*(pair.ring() for pair in pairs[first : first + 25]))
    await asyncio.gather(*(pair.accept() for pair in pairs))
    stop = asyncio.Event()
    traffic = asyncio.gather(*(pair.talk(stop) for pair in pairs))
    for name in ("gw-1", "gw-2", "cc-1", "cc-2", "pr-1", "pr-2"):
        await asyncio.sleep(1)
        assert await cluster.stop_one(name) == 0
        cluster.restart(name)
        await cluster.ready()
    await asyncio.sleep(1)
    stop.set()
    await traffic
    await asyncio.gather(*(pair.check(exactly=True) for pair in pairs))
    assert not any(phone.resumes[False] for pair in pairs for phone in pair.phones)
    _measured("rolling restart", pairs, cluster.folder)
    await asyncio.gather(*(pair.end() for pair in pairs))
    await asyncio.gather(*(pair.stop() for pair in pairs))


async def test_each_nats_server_of_three_is_killed(replicated: Cluster) -> None:
    """Relays go on; what has to be stored waits for a new leader, some seconds, and is then as if nothing had been."""
    cluster = replicated
    pairs = [Pair(cluster, n, "nodes") for n in range(NODES_TALKING)]
    ringing = [Pair(cluster, n, "ring") for n in range(NODES_RINGING)]
    await asyncio.gather(*(pair.ring() for pair in pairs))
    await asyncio.gather(*(pair.ring() for pair in ringing))
    await asyncio.gather(*(pair.accept() for pair in pairs))
    stop = asyncio.Event()
    traffic = asyncio.gather(*(pair.talk(stop) for pair in pairs))
    waited: list[float] = []
    for node in range(3):
        late = [Pair(cluster, n, f"node{node}") for n in range(NODES_PLACING)]
        await asyncio.gather(*(pair.join() for pair in late))
        await cluster.whole()
        cluster.kill_nats(node)
        killed = time.monotonic()
        await asyncio.gather(*(pair.place() for pair in late))
        late += ringing[node::3]
        await asyncio.gather(*(pair.accept() for pair in late))
        waited.append(time.monotonic() - killed)
        await asyncio.gather(*(pair.seen(in_call=True) for pair in (*pairs, *late)))
        await asyncio.gather(*(pair.end() for pair in late))
        await asyncio.gather(*(pair.stop() for pair in late))
        cluster.restart_nats(node)
    await cluster.whole()
    stop.set()
    await traffic
    await asyncio.gather(*(pair.check(exactly=True) for pair in pairs))
    assert not any(phone.resumes for pair in pairs for phone in pair.phones), "sockets stay"
    _measured("nats server of three killed", pairs, cluster.folder, call_set_up_max_s=round(max(waited), 2))
    await asyncio.gather(*(pair.end() for pair in pairs))
    await asyncio.gather(*(pair.stop() for pair in pairs))
