"""What apps written for the old HelloTalk server do, and what must come of it, whatever they run in.

The app itself is ``tests/e2e/js/old_app.mjs``; it runs in Node (:class:`NodeOldApp`) and in pages.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

from tests.support.node_client import NodeDriver

WAYS: dict[str, dict[str, Any]] = {
    "default": {"withCredentials": True},
    "websocket": {"transports": ["websocket"]},
    "polling": {"transports": ["polling"], "withCredentials": True},
    "websocket-polling": {"transports": ["websocket", "polling"], "autoConnect": True},
}
"""How apps in the field connect: name → options of ``io``."""
SECONDS = 20.0
EXTRA = {"callID": 7, "roomId": None, "timestamp": 1, "seq": "x", "meta": {"app": "3.1"}, "": []}
"""Keys that no protocol has."""


class OldApp(ABC):
    """One user's app."""

    user: str

    @abstractmethod
    async def do(self, method: str, *args: Any) -> Any:
        """Call a method of the app and return its result."""

    async def failed(self, method: str, *args: Any) -> str:
        """Call a method that must fail; the error's text."""
        return str(await self.do("failure", method, *args))

    async def nth(self, event: str, count: int = 1) -> Any:
        """The payload of the ``count``-th ``event``."""
        return await self.do("nth", event, count)

    async def count(self, event: str) -> int:
        """How many of ``event`` have come."""
        return len(await self.do("events", event))

    async def settle(self) -> None:
        """A round trip, so that what was on its way before is there."""
        status = await self.do("status", self.user)
        assert status == {"userId": self.user, "isOnline": True, "isInCall": status["isInCall"]}

    async def told_errors(self) -> list[str]:
        """Messages of the server's errors, but for those of candidates that were sent as the peer hung up."""
        await self.settle()
        messages = [error["message"] for error in await self.do("events", "error")]
        return [message for message in messages if message != "Receiver not found"]

    async def well(self) -> None:
        """Nothing went wrong in the app, and the server told of no error."""
        assert await self.told_errors() == []
        state = await self.do("snapshot")
        assert state["connected"] and not state["errors"], state


class NodeOldApp(OldApp):
    """An app in Node, with peer connections that are not real."""

    def __init__(self, driver: NodeDriver, number: str, user: str) -> None:
        self.user = user
        self._driver = driver
        self._number = number

    async def start(self, url: str, options: dict[str, Any], habits: dict[str, Any]) -> None:
        """Open the app."""
        await self._driver.command(
            "old", self._number, SECONDS, url=url, options=options, userId=self.user, habits=habits
        )

    async def do(self, method: str, *args: Any) -> Any:
        return await self._driver.command("oldDo", self._number, SECONDS, method=method, args=list(args))

    async def close(self) -> None:
        """Close the app."""
        await self._driver.command("disconnect", self._number, SECONDS)


Open = Callable[..., Awaitable[OldApp]]
"""Opens the app of a new user of that name, connected and joined; ``habits`` as ``old_app.mjs`` has them."""


async def ring(caller: OldApp, callee: OldApp, call_type: str = "video", *, nth: int = 1) -> str:
    """The callee rings; ``nth``: its how many-th call that is."""
    call = str(await caller.do("initiate", callee.user, call_type))
    incoming = await callee.nth("call:incoming", nth)
    assert {key: incoming[key] for key in ("from", "callType", "callId")} == {
        "from": caller.user,
        "callType": call_type,
        "callId": call,
    }
    return call


async def connected(*apps: OldApp) -> None:
    """Media flows to each of them."""
    await asyncio.gather(*(app.do("flows") for app in apps))


async def talk(caller: OldApp, callee: OldApp, *, nth: int = 1) -> str:
    """A call in which media flows; ``nth``: the callee's how many-th incoming one."""
    accepted = [await app.count("call:accepted") + 1 for app in (caller, callee)]
    call = await ring(caller, callee, nth=nth)
    await callee.do("accept")
    for app, number in zip((caller, callee), accepted, strict=True):
        told = await app.nth("call:accepted", number)
        assert (told["callId"], told["by"]) == (call, callee.user)
    await connected(caller, callee)
    return call


async def over(*apps: OldApp, call: str, by: OldApp, nth: int = 1) -> None:
    """The ``nth`` ``call:ended`` is of that call, and nobody is in one."""
    for app in apps:
        ended = await app.nth("call:ended", nth)
        assert (ended["callId"], ended["by"]) == (call, by.user)
    await free(*apps)


async def free(*apps: OldApp) -> None:
    """Nobody is in a call, as others see it and as their apps see it."""
    for app in apps:
        status = await app.do("status", app.user)
        assert status == {"userId": app.user, "isOnline": True, "isInCall": False}
        state = await app.do("snapshot")
        assert state.get("callId") is None and state.get("ringing") is None, state


# --- what they do ----------------------------------------------------------------------------------------------------


async def _whole_call(open_: Open, *, by_caller: bool, **habits: Any) -> None:
    alice, bob = await open_("alice", **habits), await open_("bob", **habits)
    call = await talk(alice, bob)
    for app, other in ((alice, bob), (bob, alice)):
        assert (await app.do("status", other.user))["isInCall"] is True
        first = await app.nth("ice:candidate")
        assert first["candidate"]["candidate"].startswith("candidate:") and first["from"] == other.user
    offer, answer = await bob.nth("call:offer"), await alice.nth("call:answer")
    assert (offer["offer"]["type"], offer["from"], offer["callType"]) == ("offer", alice.user, "video")
    assert (answer["answer"]["type"], answer["from"]) == ("answer", bob.user)
    ends = alice if by_caller else bob
    await ends.do("end")
    await over(alice, bob, call=call, by=ends)
    for app in (alice, bob):
        await app.well()


async def call_ended_by_the_caller(open_: Open) -> None:
    await _whole_call(open_, by_caller=True)


async def call_ended_by_the_callee(open_: Open) -> None:
    await _whole_call(open_, by_caller=False)


async def unknown_extra_keys(open_: Open) -> None:
    await _whole_call(open_, by_caller=True, extra=EXTRA)


async def joins_before_it_is_connected(open_: Open) -> None:
    await _whole_call(open_, by_caller=True, joins="at once")


async def joins_twice(open_: Open) -> None:
    await _whole_call(open_, by_caller=False, joins="twice")


async def candidates_before_the_answer(open_: Open) -> None:
    """The caller, who has no description yet to add them to, gets them in the order sent: first, and its app loses
    them, as with the old server. The callee has the caller's, which is enough for a connection."""
    alice = await open_("alice")
    bob = await open_("bob", candidates="before the answer")
    call = await ring(alice, bob)
    await bob.do("accept")
    await alice.nth("call:answer")
    await bob.nth("ice:candidate")
    received = [event for event, _ in await alice.do("log") if event in ("ice:candidate", "call:answer")]
    assert received.index("call:answer") > 0 and received[0] == "ice:candidate", received
    await alice.do("end")
    await over(alice, bob, call=call, by=alice)
    await bob.well()


async def offer_while_it_rings(open_: Open) -> None:
    """It waits at the callee until its user accepts."""
    alice, bob = await open_("alice", offers="while it rings"), await open_("bob")
    call = await ring(alice, bob)
    await bob.nth("call:offer")
    await bob.do("accept")
    assert (await alice.nth("call:accepted"))["by"] == bob.user
    await alice.nth("call:answer")
    await bob.do("end")
    await over(alice, bob, call=call, by=bob)
    await alice.well()


async def refusal(open_: Open) -> None:
    alice, bob = await open_("alice"), await open_("bob")
    call = await ring(alice, bob, "audio")
    await bob.do("reject")
    for app in (alice, bob):
        rejected = await app.nth("call:rejected")
        assert (rejected["callId"], rejected["by"]) == (call, bob.user)
    await free(alice, bob)
    for app in (alice, bob):
        assert await app.count("call:ended") == 0
        await app.well()


async def hang_up_while_it_rings(open_: Open) -> None:
    alice, bob = await open_("alice"), await open_("bob")
    call = await ring(alice, bob)
    await alice.do("end")
    await over(alice, bob, call=call, by=alice)
    call = await ring(alice, bob, nth=2)
    await bob.do("end")
    await over(alice, bob, call=call, by=bob, nth=2)
    for app in (alice, bob):
        await app.well()


async def both_hang_up_at_once(open_: Open) -> None:
    """One of them is first, and the other may be told that there is no call any more."""
    alice, bob = await open_("alice"), await open_("bob")
    call = await talk(alice, bob)
    await asyncio.gather(alice.do("end"), bob.do("end"))
    for app in (alice, bob):
        ended = await app.nth("call:ended")
        assert ended["callId"] == call
        told = await app.told_errors()
        assert set(told) <= {"Call not found or expired"}, told
        assert await app.count("call:ended") == 1
    await free(alice, bob)
    await talk(bob, alice)
    await bob.do("end")
    await alice.nth("call:ended", 2)


async def calls_in_turn(open_: Open) -> None:
    alice, bob = await open_("alice"), await open_("bob")
    for number, (caller, callee) in enumerate(((alice, bob), (alice, bob), (bob, alice), (alice, bob)), 1):
        call = await talk(caller, callee, nth=await callee.count("call:incoming") + 1)
        ends = (caller, callee)[number % 2]
        await ends.do("end")
        await over(alice, bob, call=call, by=ends, nth=number)
    for app in (alice, bob):
        await app.well()


async def calls_again_at_once(open_: Open) -> None:
    """``call:end`` and ``call:initiate`` go out together; the end of the old call is told before the new one begins."""
    alice, bob = await open_("alice"), await open_("bob")
    calls = [await talk(alice, bob)]
    for _ in range(3):
        calls.append(await alice.do("endAndInitiate", bob.user, "audio"))
    await bob.nth("call:incoming", 4)
    for app, begins in ((alice, "call:initiated"), (bob, "call:incoming")):
        await app.settle()
        told = [(event, p["callId"]) for event, p in await app.do("log") if event in ("call:ended", begins)]
        expected = [(begins, calls[0])]
        for old, new in pairwise(calls):
            expected += [("call:ended", old), (begins, new)]
        assert told == expected
    await bob.do("reject")
    await alice.nth("call:rejected")
    await free(alice, bob)
    for app in (alice, bob):
        assert await app.told_errors() == []


async def somebody_else_is_busy_or_away(open_: Open) -> None:
    """Each is a failure of ``initiate``, in the words of the old server, and costs nothing."""
    alice, bob, carol = [await open_(name) for name in ("alice", "bob", "carol")]
    nobody = f"nobody-{alice.user}"
    assert await alice.do("status", nobody) == {"userId": nobody, "isOnline": False, "isInCall": False}
    assert "User not found" in await alice.failed("initiate", nobody, "audio")
    await alice.do("clear")
    call = await talk(alice, bob)
    for busy in (alice, bob):
        assert "User is not available" in await carol.failed("initiate", busy.user, "audio")
        await carol.do("clear")
        assert (await carol.do("status", busy.user))["isInCall"] is True
    await bob.do("end")
    await over(alice, bob, call=call, by=bob)
    call = await talk(carol, bob, nth=2)
    await carol.do("end")
    await carol.nth("call:ended")
    await bob.well()


async def the_network_breaks_in_a_call(open_: Open) -> None:
    """The library connects again, the app joins again, and the call goes on as if nothing had been."""
    alice, bob = await open_("alice"), await open_("bob")
    call = await talk(alice, bob)
    await bob.do("breaks")
    await bob.do("connects", 2)
    assert (await alice.do("status", bob.user)) == {"userId": bob.user, "isOnline": True, "isInCall": True}
    await connected(alice, bob)
    await bob.do("end", call)
    ended = await alice.nth("call:ended")
    assert (ended["callId"], ended["by"]) == (call, bob.user)
    call = await talk(alice, bob, nth=2)
    await alice.do("end")
    await bob.nth("call:ended", 2)
    await free(alice, bob)


async def the_app_is_closed_in_a_call(open_: Open) -> None:
    alice, bob = await open_("alice"), await open_("bob")
    call = await talk(alice, bob)
    await bob.do("disconnect")
    ended = await alice.nth("call:ended")
    assert (ended["callId"], ended["by"]) == (call, bob.user)
    await free(alice)
    assert (await alice.do("status", bob.user))["isOnline"] is False


SCENARIOS: dict[str, Callable[[Open], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        call_ended_by_the_caller,
        call_ended_by_the_callee,
        unknown_extra_keys,
        joins_before_it_is_connected,
        joins_twice,
        candidates_before_the_answer,
        offer_while_it_rings,
        refusal,
        hang_up_while_it_rings,
        both_hang_up_at_once,
        calls_in_turn,
        calls_again_at_once,
        somebody_else_is_busy_or_away,
        the_network_breaks_in_a_call,
        the_app_is_closed_in_a_call,
    )
}
