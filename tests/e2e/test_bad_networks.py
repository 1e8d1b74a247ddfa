"""Limits stay invisible to people: bad networks, many devices and impatient users meet none of the default ones.

Everybody here has one address, like a family or an office behind one NAT, and no setting of a limit is raised. What
takes minutes in the field takes seconds here. That is harder: rates are refilled by time, so less has come back.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from shared.observability.log_throttle import SECONDS as SAID_SECONDS
from tests.support.cluster import Cluster
from tests.support.limit_metrics import limits_hit
from tests.support.phone import Phone
from tests.support.raw_client import RawClient
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180), pytest.mark.large]

FLAPS = 30
FIVE_MINUTES = 300.0
PER_FLAP = 5
"""Candidates that the peer sends while the phone is between two networks."""
BURST = 40
DEVICES = 10
RELOADS = 10
FAMILY = 5

PATIENCE = 30.0
RING_SECONDS = 45
"""The default; the clusters of other tests ring for longer or shorter."""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def cluster(clusters: Clusters) -> AsyncIterator[Cluster]:
    """The limits as they are by default. At the end no process has counted a hit of any of them."""
    cluster = await clusters.get("2x2x2", ring_seconds=RING_SECONDS, RATE_LIMIT="on")
    before = limits_hit(cluster.folder)
    yield cluster
    await cluster.assert_quiet()
    cluster.check_logs()
    await asyncio.sleep(SAID_SECONDS + 2)  # so seldom it is said
    assert limits_hit(cluster.folder) == before


class Member:
    """A person and the friend whom they call. ``clients``: those to be closed in the end."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        token = secrets.token_hex(4)
        self.name, self.friend = f"{name}-{token}", f"friend-of-{name}-{token}"
        self.urls = [gateway.url for gateway in cluster.gateways]
        self._cluster = cluster
        self._opened = 0
        self._clients: list[RawClient] = []

    async def page(self, user: str, **join: Any) -> RawClient:
        """Open a page that joins as ``user``, each time at the next gateway."""
        client = RawClient(user)
        self._clients.append(client)
        self._opened += 1
        await client.connect(self.urls[self._opened % len(self.urls)])
        client.joined = await client.ok("user:join", {"userId": user, **join})  # type: ignore[attr-defined]
        return client

    def told_nothing_bad(self) -> None:
        """Check that no page has heard of an error."""
        assert not [one for client in self._clients for one in client.inbox.all if one.event == "error"]

    async def leave(self) -> None:
        """Close all pages for good, and wait until the server has seen it: what comes next begins anew."""
        self.told_nothing_bad()
        for client in self._clients:
            if not client.closed.is_set():
                await client.disconnect()
        await self.gone()

    async def gone(self) -> None:
        """Wait until neither of the two has a session."""
        async with asyncio.timeout(PATIENCE):
            while any(self.name in key for key in await self._cluster.sessions()):
                await asyncio.sleep(0.1)


async def _accepted(caller: RawClient, callee: RawClient) -> str:
    call = (await caller.ok("call:initiate", {"to": callee.name, "callType": "video"}))["callId"]
    await callee.expect("call:incoming", callId=call)
    await callee.ok("call:accept", {"callId": call})
    for client in (caller, callee):
        await client.expect("call:accepted", callId=call)
    return str(call)


async def _ended(by: RawClient, other: RawClient, call: str) -> None:
    await by.ok("call:end", {"callId": call})
    for client in (by, other):
        await client.expect("call:ended", callId=call)


async def flap(member: Member) -> None:
    """A phone in a call loses its connection thirty times; it resumes at the other gateway with everything."""
    phone, friend = Phone(member.name, member.urls, jitter=0.1), Phone(member.friend, member.urls[::-1])
    begun = time.monotonic()
    answers: list[asyncio.Task[dict[str, Any]]] = []
    try:
        for one in (phone, friend):
            await one.start()
        call = (await phone.ok("call:initiate", {"to": friend.user, "callType": "audio"}))["callId"]
        await friend.until("call:incoming")
        await friend.ok("call:accept", {"callId": call})
        await phone.until("call:accepted")
        for n in range(FLAPS):
            await phone._client.tear()
            for m in range(n * PER_FLAP, (n + 1) * PER_FLAP):
                candidate = {"candidate": {"n": m}, "from": friend.user, "to": phone.user, "callId": call}
                answers.append(asyncio.create_task(friend.ok("ice:candidate", candidate)))
                await asyncio.sleep(0.01)
            await phone.until("user:joined", n + 2)
        await asyncio.gather(*answers)
        await phone.until("ice:candidate", FLAPS * PER_FLAP)
        assert time.monotonic() - begun < FIVE_MINUTES, "slower is easier"
        assert phone.numbers == list(range(FLAPS * PER_FLAP)), "in order, once, and nothing missed"
        assert phone.resumes == {True: FLAPS} and not friend.resumes
        await phone.ok("call:end", {"callId": call})
        await friend.until("call:ended")
        for one in (phone, friend):
            assert not one.refused and not one.events["error"]
    finally:
        for task in answers:
            task.cancel()
        for one in (phone, friend):
            await one.stop()
    await member.gone()


async def burst(member: Member) -> None:
    """Each side sends forty candidates at once, each by itself, and then forty more in one event."""
    caller, callee = await member.page(member.name), await member.page(member.friend)
    call = await _accepted(caller, callee)

    async def send(by: RawClient, to: RawClient) -> None:
        head = {"from": by.name, "to": to.name, "callId": call}
        one_by_one = ({**head, "candidate": {"n": n}} for n in range(BURST))
        await asyncio.gather(*(by.ok("ice:candidate", payload) for payload in one_by_one))
        await by.ok("ice:candidate", {**head, "candidates": [{"n": n} for n in range(BURST)]})

    async def hear(by: RawClient) -> list[int]:
        numbers: list[int] = []
        while len(numbers) < 2 * BURST:
            data = await by.expect("ice:candidate", callId=call)
            numbers += [one["n"] for one in data.get("candidates", [data.get("candidate")])]
        return numbers

    *_, at_callee, at_caller = await asyncio.gather(
        send(caller, callee), send(callee, caller), hear(callee), hear(caller)
    )
    assert at_callee == at_caller == [*range(BURST), *range(BURST)]
    await _ended(caller, callee, call)
    await member.leave()


async def ten_devices(member: Member) -> None:
    """All ten devices of one user ring, one answers, and the others are told so."""
    caller = await member.page(member.friend)
    devices = [await member.page(member.name, deviceId=f"device-{n}") for n in range(DEVICES)]
    call = (await caller.ok("call:initiate", {"to": member.name, "callType": "audio"}))["callId"]
    for device in devices:
        await device.expect("call:incoming", callId=call)
    *others, answers = devices
    await answers.ok("call:accept", {"callId": call})
    for device in others:
        await device.expect("call:ended", callId=call, reason="answered_elsewhere")
    for client in (caller, answers):
        await client.expect("call:accepted", callId=call)
    await _ended(answers, caller, call)
    await member.leave()


async def reload(member: Member) -> None:
    """A page is reloaded ten times in a row while it rings, and ten times in the call. It knows nothing of before."""
    caller, page = await member.page(member.friend), await member.page(member.name)
    session = page.joined["sessionId"]  # type: ignore[attr-defined]
    call = (await caller.ok("call:initiate", {"to": member.name, "callType": "video"}))["callId"]
    await page.expect("call:incoming", callId=call)
    for _ in range(RELOADS):
        await page.close()
        page = await member.page(member.name)
        await page.expect("call:incoming", callId=call)
        assert page.joined["sessionId"] == session  # type: ignore[attr-defined]
    await page.ok("call:accept", {"callId": call})
    for client in (caller, page):
        await client.expect("call:accepted", callId=call)
    for _ in range(RELOADS):
        await page.close()
        page = await member.page(member.name)
        told = await page.expect("user:joined")
        assert (told["sessionId"], told["call"]["callId"]) == (session, call)
        assert told["call"]["state"] == "accepted"
    await _ended(page, caller, call)
    await member.leave()


SCENES: tuple[Callable[[Member], Awaitable[None]], ...] = (flap, burst, ten_devices, reload)


@pytest.mark.parametrize("scene", SCENES)
async def test_one_person(cluster: Cluster, scene: Callable[[Member], Awaitable[None]]) -> None:
    await scene(Member(cluster, scene.__name__.replace("_", "-")))


async def test_a_family_of_five_behind_one_address(cluster: Cluster) -> None:
    """Each of them does all of it, one after the other and beside the others."""

    async def live(member: Member) -> None:
        for scene in SCENES:
            await scene(member)

    await asyncio.gather(*(live(Member(cluster, f"member-{n}")) for n in range(FAMILY)))
