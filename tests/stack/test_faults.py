"""Scaled, killed and restarted under live calls: a caller on a websocket, a callee that polls, through the proxy."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.stack.phones import Talk
from tests.stack.stack import Stack

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("whole"),
]

PAIRS = 10
# Who has to wait for an answer of a gateway that was killed, or lost the way to it, cannot know whether it was heard.
EXACTLY = {"gateway": False, "proxy": False, "callcore": True, "presence": True, "nats": True}


@pytest_asyncio.fixture(loop_scope="session")
async def whole(stack: Stack) -> AsyncIterator[None]:
    """Two of each again afterwards, whatever the test has left."""
    yield
    await stack.up(gateway=2, callcore=2, presence=2)


async def test_scaled_up_and_down_without_a_lost_call(stack: Stack) -> None:
    talk = Talk(stack, "scaled")
    await talk.begin(PAIRS)
    await stack.up(gateway=4, callcore=3, presence=3)
    await talk.begin(PAIRS)
    connected = {
        r["svname"]: int(r["scur"]) for r in stack.proxy_state() if r["svname"].startswith("gateway")
    }
    assert sum(count > 0 for count in connected.values()) == 4, f"new gateways are used: {connected}"
    drained = len(stack.said('"drained"'))
    await stack.up(gateway=1, callcore=1, presence=1)
    async with asyncio.timeout(10):  # what they say may take a moment to get here
        while len(stack.said('"drained"')) - drained < 3:
            await asyncio.sleep(0.1)
    await talk.finish(exactly=True)
    assert sum(phone.resumes[True] for pair in talk.pairs for phone in pair.phones) >= PAIRS, (
        "some had to move"
    )
    stack.check_logs()


@pytest.mark.parametrize("service", EXACTLY)
async def test_a_container_is_killed_and_comes_back(stack: Stack, service: str) -> None:
    talk = Talk(stack, f"killed-{service}")
    await talk.begin(PAIRS)
    victim = stack.one(service)
    stack.kill(victim)
    await stack.restarted(victim)
    await stack.ready()
    await talk.begin(2)
    await talk.finish(exactly=EXACTLY[service])
    stack.allowed = ("reconciled: ",)
    stack.check_logs()


async def test_calls_outlive_all_containers(stack: Stack) -> None:
    """Everything is stopped and removed, but for the volumes; what comes up anew goes on where it was."""
    talk = Talk(stack, "reborn")
    await talk.begin(PAIRS)
    before = {container.id for container in stack.containers()}
    await stack.compose("down")
    assert not stack.containers()
    await stack.up()
    assert before.isdisjoint(container.id for container in stack.containers())
    # Mailboxes are in memory: what was in them is lost, and clients are told so.
    await talk.finish(exactly=False, resumed=False)
    for pair in talk.pairs:
        assert await stack.events(f"event.call.{pair.call}.accepted"), "what happened is on disk"
    stack.allowed = ("reconciled: ",)
    stack.check_logs()
