"""Bad networks between clients and gateways: who comes back has missed nothing, and who did not leave never notices."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e import test_faults
from tests.support.cluster import Cluster
from tests.support.phone import Phone
from tests.support.proxy import Proxy
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60), pytest.mark.large]

PING_SECONDS, PONG_SECONDS = 1, 3
SILENCE_SECONDS = 3.0
"""Without a ping for so long a phone gives its socket up: before its gateway does, which takes up to 4 s."""
UNREAD_KB = 1024
DELAY_SECONDS = 0.5
TRICKLE = (50, 0.01)
"""Bytes, and every how many seconds so many pass: 5 kB/s at most."""
PAIRS = 4
EVERY_SECONDS = 0.02
SLOW_SECONDS = 0.4
"""The same over a trickling link, which takes no more than 5 kB/s."""
PADDING = "x" * 1000
"""Makes a candidate so large that a trickling link is always amid one."""
ROUNDS = 3
PATIENCE = 20.0
OFFER_BYTES = 60_000
OFFERS_MAX = 400

TALKED = {"user:joined", "call:accepted", "ice:candidate", "call:ended"}
"""All that both sides of a call hear when nothing goes wrong."""


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(clusters: Clusters) -> AsyncIterator[Cluster]:
    cluster = await clusters.get(
        "2x2x2",
        RESUME_WINDOW_SECONDS="10",
        PING_INTERVAL_SECONDS=str(PING_SECONDS),
        PING_TIMEOUT_SECONDS=str(PONG_SECONDS),
        UNREAD_MAX_KB=str(UNREAD_KB),
    )
    yield cluster
    await cluster.assert_quiet()
    cluster.check_logs()
    try:
        async with asyncio.timeout(PATIENCE):
            while left := await cluster.sessions():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"left behind: {left[:10]} ({len(left)})") from None


class Pair(test_faults.Pair):
    """Two phones that reach the gateways through proxies, and talk without a pause."""

    def __init__(self, proxies: list[Proxy], number: int, token: str, silence: float | None) -> None:
        """Even ones have their caller at the first gateway, odd ones their callee."""
        urls = [proxy.url for proxy in proxies]
        first = number % 2
        self.alice = Phone(f"a{number}-{token}", urls[first:] + urls[:first], silence=silence)
        self.bob = Phone(f"b{number}-{token}", urls[1 - first :] + urls[: 1 - first], silence=silence)
        self.phones = (self.alice, self.bob)
        self.at_first, self.at_second = self.phones if first == 0 else self.phones[::-1]
        self.call = ""
        self.sent = {self.alice: 0, self.bob: 0}
        self.every = EVERY_SECONDS
        """How long each side pauses between two candidates, in seconds."""
        self.took = {self.alice: 0.0, self.bob: 0.0}
        """How long the answer to the last candidate took, in seconds."""

    async def say(self, by: Phone) -> None:
        """One candidate more, until it is answered."""
        to = self.bob if by is self.alice else self.alice
        number = self.sent[by]
        self.sent[by] += 1
        begun = time.monotonic()
        candidate = {"n": number, "padding": PADDING}
        await by.ok(
            "ice:candidate", {"candidate": candidate, "from": by.user, "to": to.user, "callId": self.call}
        )
        self.took[by] = time.monotonic() - begun

    async def talk(self, stop: asyncio.Event) -> None:
        async def speak(by: Phone) -> None:
            while not stop.is_set():
                await self.say(by)
                await asyncio.sleep(self.every)

        await asyncio.gather(*(speak(phone) for phone in self.phones))

    async def hear(self, more: int, timeout: float = PATIENCE) -> None:
        """Wait until each side has got that many candidates more."""
        wanted = [(phone, len(phone.numbers) + more) for phone in self.phones]
        await asyncio.gather(*(phone.until("ice:candidate", n, timeout=timeout) for phone, n in wanted))

    async def exchange(self) -> None:
        """One candidate more from each side."""
        await asyncio.gather(*(self.say(phone) for phone in self.phones))

    async def joined(self, times: int) -> None:
        """Wait until each side has joined so often."""
        await asyncio.gather(*(phone.until("user:joined", times, timeout=PATIENCE) for phone in self.phones))

    def heard(self) -> None:
        """Nobody was told anything that is not part of a call, nor refused anything."""
        heard = [{event for event, told in phone.events.items() if told} for phone in self.phones]
        assert heard == [TALKED | {"call:initiated"}, TALKED | {"call:incoming"}]
        assert not self.alice.refused and not self.bob.refused

    def undisturbed(self, phone: Phone) -> None:
        """One whose network was good: one socket, one session, and every request answered at once."""
        assert not phone.resumes and not phone.again and len(phone.events["user:joined"]) == 1, phone.user

    async def finish(self) -> None:
        """All that was said has been heard, and the call ends once."""
        await self.check(exactly=False)
        await self.end()
        self.heard()


class Network:
    """What lies before the gateways, and who is behind it."""

    def __init__(self, cluster: Cluster) -> None:
        self.proxies = [Proxy(gateway.port) for gateway in cluster.gateways]
        self.pairs: list[Pair] = []

    async def ringing(self, count: int, token: str, *, silence: float | None = SILENCE_SECONDS) -> list[Pair]:
        """Pairs of which one rings the other. ``silence``: as phones take it."""
        self.pairs = [Pair(self.proxies, n, token, silence) for n in range(count)]
        await each(self.pairs, Pair.ring)
        return self.pairs

    async def talking(self, count: int, token: str, *, silence: float | None = SILENCE_SECONDS) -> list[Pair]:
        """Pairs that are in a call."""
        pairs = await self.ringing(count, token, silence=silence)
        await each(pairs, Pair.accept)
        return pairs


@pytest_asyncio.fixture(loop_scope="session")
async def network(cluster: Cluster) -> AsyncIterator[Network]:
    """A proxy in front of each gateway, and nobody behind it."""
    network = Network(cluster)
    for proxy in network.proxies:
        await proxy.start()
    yield network
    for proxy in network.proxies:
        proxy.delay(0)
        proxy.trickle(0, 0)
    await each(network.pairs, Pair.stop)
    for proxy in network.proxies:
        await proxy.stop()


@contextlib.asynccontextmanager
async def traffic(pairs: list[Pair]) -> AsyncIterator[None]:
    """All of them talk all the time; afterwards everything is answered."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as talks:
        for pair in pairs:
            talks.create_task(pair.talk(stop))
        try:
            yield
        finally:
            stop.set()


async def each(pairs: list[Pair], step: Callable[[Pair], Awaitable[Any]]) -> None:
    await asyncio.gather(*(step(pair) for pair in pairs))


async def _cut(proxy: Proxy, pairs: list[Pair]) -> None:
    proxy.cut()


async def _half_open(proxy: Proxy, pairs: list[Pair]) -> None:
    proxy.half_open()


async def _delay(proxy: Proxy, pairs: list[Pair]) -> None:
    """Who talks is answered late for a while; then what is on its way is lost."""
    proxy.delay(DELAY_SECONDS)
    await each(pairs, lambda pair: pair.hear(3))
    assert min(pair.took[pair.at_first] for pair in pairs) > 2 * DELAY_SECONDS
    _all_stay(pairs)
    proxy.cut()


async def _trickle(proxy: Proxy, pairs: list[Pair]) -> None:
    """Frames come in pieces for a while; then one breaks in the middle."""
    for pair in pairs:
        pair.every = SLOW_SECONDS
    proxy.trickle(*TRICKLE)
    await each(pairs, lambda pair: pair.hear(4))
    assert min(pair.took[pair.at_first] for pair in pairs) > len(PADDING) / TRICKLE[0] * TRICKLE[1]
    _all_stay(pairs)
    proxy.cut()
    for pair in pairs:
        pair.every = EVERY_SECONDS


def _all_stay(pairs: list[Pair]) -> None:
    for pair in pairs:
        for phone in pair.phones:
            pair.undisturbed(phone)


STRIKES = {"cut": _cut, "half-open": _half_open, "delayed, then cut": _delay, "trickling, then cut": _trickle}


@pytest.mark.parametrize("fault", STRIKES)
async def test_one_side_has_a_bad_network(network: Network, fault: str) -> None:
    first, second = network.proxies
    pairs = await network.talking(PAIRS, fault.split(",")[0])
    async with traffic(pairs):
        await each(pairs, lambda pair: pair.hear(5))
        await STRIKES[fault](first, pairs)
        await each(pairs, lambda pair: pair.at_first.until("user:joined", 2, timeout=PATIENCE))
        await each(pairs, lambda pair: pair.hear(5))
    await each(pairs, Pair.finish)
    for pair in pairs:
        assert pair.at_first.resumes == {True: 1}, pair.at_first.user
        pair.undisturbed(pair.at_second)
        if fault == "half-open":
            assert pair.at_first.silence > SILENCE_SECONDS - PING_SECONDS, "nothing came through"
    assert (first.opened, second.opened) == (PAIRS, 2 * PAIRS), "each came back to the other gateway"


async def test_both_sides_are_cut_again_and_again(network: Network) -> None:
    pairs = await network.talking(PAIRS, "again")
    async with traffic(pairs):
        for round_ in range(ROUNDS):
            await each(pairs, lambda pair: pair.hear(3, timeout=5))
            for proxy in network.proxies:
                proxy.cut()
            await each(pairs, lambda pair: pair.joined(round_ + 2))  # noqa: B023  # awaited in this round
        await each(pairs, lambda pair: pair.hear(3, timeout=5))
    await each(pairs, Pair.finish)
    for pair in pairs:
        assert [phone.resumes for phone in pair.phones] == [{True: ROUNDS}] * 2


async def test_cut_while_it_rings(network: Network) -> None:
    pairs = await network.ringing(PAIRS, "ringing")
    network.proxies[0].cut()
    await each(pairs, lambda pair: pair.at_first.until("user:joined", 2, timeout=PATIENCE))
    await each(pairs, Pair.accept)
    await each(pairs, Pair.exchange)
    await each(pairs, Pair.finish)
    for pair in pairs:
        assert pair.at_first.resumes == {True: 1}, pair.at_first.user
        pair.undisturbed(pair.at_second)


async def test_cut_before_the_answer_to_an_accept(network: Network) -> None:
    """The call is accepted; who accepted it hears so from its mailbox only. To ask again changes nothing."""
    first = network.proxies[0]
    _, pair = await network.ringing(2, "accepting")
    first.delay(DELAY_SECONDS)
    accepting = asyncio.create_task(pair.bob.ok("call:accept", {"callId": pair.call}))
    await pair.alice.until("call:accepted", timeout=PATIENCE)
    assert not pair.bob.events["call:accepted"] and not accepting.done()
    first.cut()
    with contextlib.suppress(AssertionError):  # refused, because it is done
        await accepting
    assert pair.bob.again and set(pair.bob.refused) <= {"invalid_state"}
    await pair.bob.until("call:accepted", timeout=PATIENCE)
    await pair.exchange()
    await pair.check(exactly=True)
    await pair.end()
    assert pair.bob.resumes == {True: 1}
    pair.undisturbed(pair.alice)


async def test_slow_from_the_first_byte(network: Network) -> None:
    """Handshake, join and call where one side is late and the other trickles, many waiting for answers at once."""
    late, thin = network.proxies
    late.delay(DELAY_SECONDS)
    thin.trickle(*TRICKLE)
    (pair,) = await network.talking(1, "slow")

    async def say_all(by: Phone) -> float:
        begun = time.monotonic()
        await asyncio.gather(*(pair.say(by) for _ in range(8)))
        return time.monotonic() - begun

    took = await asyncio.gather(*(say_all(phone) for phone in (pair.at_first, pair.at_second)))
    assert took[0] > 2 * DELAY_SECONDS and took[1] > 8 * len(PADDING) / TRICKLE[0] * TRICKLE[1]
    await pair.finish()
    _all_stay([pair])


async def test_a_client_that_does_not_read(cluster: Cluster, network: Network) -> None:
    """It says that it is alive, and reads nothing. Closed at its limit of bytes, it comes back with nothing missed."""
    gateway = cluster.gateways[1]
    logged = gateway.log.stat().st_size

    def closings() -> list[dict[str, Any]]:
        with gateway.log.open("rb") as log:
            log.seek(logged)
            lines = [json.loads(line) for line in log.read().splitlines() if line.endswith(b"}")]
        return [line for line in lines if "client does not read" in line.get("event", "")]

    (pair,) = await network.talking(1, "unread", silence=None)
    alice, bob = pair.phones
    socket = bob._client
    socket._ws._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    sent, pong_at = 0, 0.0
    while not closings():
        assert sent < OFFERS_MAX, "nothing bounds what waits for a client that does not read"
        assert not bob.events["call:offer"], "it does read"
        if time.monotonic() > pong_at:  # not more often than somebody would who is asked
            pong_at = time.monotonic() + PING_SECONDS
            await socket.send("3")
        offer = {"type": "offer", "n": sent, "sdp": "x" * OFFER_BYTES}
        await alice.ok(
            "call:offer", {"offer": offer, "from": alice.user, "to": bob.user, "callId": pair.call}
        )
        sent += 1
    limit, size = UNREAD_KB * 1024, closings()[0]["bytes"]
    assert limit <= size <= limit + 2 * OFFER_BYTES
    assert not bob.events["call:offer"]
    async with asyncio.timeout(PATIENCE):
        while not socket.closed.is_set():
            await socket.send("3")
            await asyncio.sleep(PING_SECONDS)
    # What it missed is more than the limit again; it is let read it.
    await bob.until("call:offer", sent, timeout=2 * PATIENCE)
    assert [data["offer"]["n"] for data in bob.events["call:offer"]] == list(range(sent))
    assert bob.resumes == {True: 1} and len(closings()) == 1
    pair.undisturbed(alice)
    await pair.end()
