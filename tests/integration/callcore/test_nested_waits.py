"""A request that one instance passes on to another is answered only if everybody was told, however late either is.

Two instances run in this process: ``front``, which takes requests from the queue, and ``owner``, which is in charge of
every call of these tests and answers only what is sent to it by name. Either is late by a given time at a given point.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from services.callcore.app import start
from services.callcore.handlers import Handlers
from services.callcore.notify.notifier import Notifier
from services.callcore.settings import Settings
from services.callcore.state.model import Outcome, State
from services.callcore.store import Store
from shared import subjects
from shared.contracts.calls import AttachedRequest, LeftRequest
from shared.contracts.liveness import Beat
from shared.contracts.rpc import Done
from shared.errors import Unavailable
from shared.ids import new_id
from shared.messaging.rpc import RpcClient, RpcServer
from shared.nats.connection import Bus
from tests.integration.callcore.conftest import GATEWAY, Start, World

LATE = (0.0, 0.3, 0.75, 0.79, 0.81, 0.9, 1.2, 1.6, 1.9, 1.95, 1.98, 2.0, 2.02, 2.05, 2.5)
"""Seconds; a try takes two of them, and what it waits for the owner 0.8."""
TOLD_SECONDS = 0.5
"""How long a message that was sent may take to be seen here, on a busy machine."""
AT_A_TIME = 20
"""Calls that are placed, or late, side by side."""

T = TypeVar("T")

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True, slots=True)
class Lateness:
    """``where``: before anything is ``read``, after the command is ``stored``, or before it is ``answered``."""

    where: str
    seconds: float


_late: ContextVar[Lateness | None] = ContextVar("late", default=None)
_plans: dict[tuple[str, str], Lateness] = {}
"""(instance, call or user) → how late it is with its first command for that one."""


async def _linger(where: str) -> None:
    late = _late.get()
    if late is not None and late.where == where:
        await asyncio.sleep(late.seconds)


def _named(request: Any) -> str:
    return str(getattr(request, "call", None) or request.user)


@pytest.fixture
def lateness(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Lateness]:
    """Has instances be late by plan."""
    _plans.clear()
    serve, register = RpcServer.serve, Handlers.register
    owners: set[RpcServer] = set()

    async def register_late(self: Handlers, server: RpcServer, instance: str) -> None:
        server.instance = instance  # type: ignore[attr-defined]
        if instance == "owner":
            owners.add(server)
        await register(self, server, instance)

    async def serve_late(
        self: RpcServer,
        service: str,
        verb: str,
        model: Any,
        handler: Callable[[Any], Awaitable[Any]],
        **more: Any,
    ) -> None:
        instance = self.instance  # type: ignore[attr-defined]
        if self in owners and more.get("at") is None:
            return

        async def late(request: Any) -> Any:
            _late.set(_plans.pop((instance, _named(request)), None))
            await _linger("read")
            answer = await handler(request)
            await _linger("answered")
            return answer

        await serve(self, service, verb, model, late, **more)

    update, create = Store.update, Store.create

    async def update_late(self: Store, *args: Any, **more: Any) -> int:
        revision = await update(self, *args, **more)
        await _linger("stored")
        return revision

    def create_late(self: Store, *args: Any, **more: Any) -> Any:
        async def created() -> int:
            revision = await create(self, *args, **more)
            await _linger("stored")
            return revision

        return asyncio.ensure_future(created())

    monkeypatch.setattr(Handlers, "register", register_late)
    monkeypatch.setattr(RpcServer, "serve", serve_late)
    monkeypatch.setattr(Store, "update", update_late)
    monkeypatch.setattr(Store, "create", create_late)
    return _plans


@pytest_asyncio.fixture
async def system(nats_url: str, world: World, lateness: object) -> AsyncIterator[World]:
    """``front`` and ``owner``, and a gateway's client whose tries take two seconds."""
    world.client = RpcClient(world.bus, timeout=2.0)
    settings = Settings.model_validate({"nats_url": nats_url, "rate_limit": False, "sweep_seconds": 3600})
    async with AsyncExitStack() as stack:
        for name in ("front", "owner"):
            await stack.enter_async_context(start(settings, name))
        await world.until(lambda: len(world.members.alive("callcore")) == 2)
        yield world


def owned(world: World) -> str:
    """The id of a call that ``owner`` is in charge of."""
    while world.members.owner("callcore", call := new_id()) != "owner":
        pass
    return call


async def placed(world: World, name: str) -> str:
    """A call of ``<name>a`` that rings ``<name>b``, and that ``owner`` is in charge of."""
    await asyncio.gather(world.online(f"{name}a", "web"), world.online(f"{name}b", "web"))
    return (await world.initiate(f"{name}a-web", f"{name}b", call=owned(world))).call


async def side_by_side(each: Iterable[Awaitable[T]]) -> list[T]:
    """Await all, a few at a time: all at once they outlast their own tries on a busy machine."""
    few = asyncio.Semaphore(AT_A_TIME)

    async def one(awaitable: Awaitable[T]) -> T:
        async with few:
            return await awaitable

    return await asyncio.gather(*map(one, each))


Ask = Callable[[World, str, str], Awaitable[Any]]
"""(world, name of the pair, call)"""
ACCEPT: Ask = lambda world, name, call: world.accept(f"{name}b-web", call)  # noqa: E731
REJECT: Ask = lambda world, name, call: world.reject(f"{name}b-web", call)  # noqa: E731
END: Ask = lambda world, name, call: world.end(f"{name}a-web", call)  # noqa: E731
LEFT: Ask = lambda world, name, call: world.left(f"{name}b-web")  # noqa: E731
COMMANDS: dict[str, tuple[Ask, dict[str, str]]] = {
    "accept": (ACCEPT, {"a": "call:accepted", "b": "call:accepted"}),
    "reject": (REJECT, {"a": "call:rejected", "b": "call:rejected"}),
    "end": (END, {"a": "call:ended", "b": "call:ended"}),
    "left": (LEFT, {"a": "call:ended"}),
}


async def answered_and_told(world: World, ask: Awaitable[Any], told: dict[str, str]) -> bool:
    """Whether it was answered. If it was, everybody has been told, or it fails."""
    try:
        await ask
    except Unavailable:
        return False
    for session, event in told.items():
        try:
            await world.until(lambda session=session, event=event: world.to(session, event), TOLD_SECONDS)
        except TimeoutError:
            pytest.fail(f"answered, but {session} was not told {event}: {world.to(session)}")
    return True


def every_lateness() -> dict[str, tuple[str, Lateness]]:
    """The name of a pair of users → which instance is late for it, and how."""
    each = itertools.product(("front", "owner"), ("read", "stored", "answered"), LATE)
    return {f"u{n}": (who, Lateness(where, seconds)) for n, (who, where, seconds) in enumerate(each)}


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_late_command_is_notified_or_not_answered(
    system: World, lateness: dict[tuple[str, str], Lateness], command: str
) -> None:
    ask, told = COMMANDS[command]
    plans = every_lateness()
    calls = dict(zip(plans, await side_by_side(placed(system, name) for name in plans), strict=True))
    for name, (who, late) in plans.items():
        # An owner is asked for the call; of who leaves, the front is asked for the user.
        lateness[who, f"{name}b" if (who, command) == ("front", "left") else calls[name]] = late
    answers = await side_by_side(
        answered_and_told(
            system, ask(system, name, call), {f"{name}{side}-web": event for side, event in told.items()}
        )
        for name, call in calls.items()
    )
    assert all(answers), [plan for plan, answer in zip(plans.values(), answers, strict=True) if not answer]
    assert not lateness, "somebody was not late after all"


async def test_a_call_that_is_placed_late_rings_or_is_not_answered(
    system: World, lateness: dict[tuple[str, str], Lateness]
) -> None:
    async def place(name: str, who: str, late: Lateness) -> bool:
        await asyncio.gather(system.online(f"{name}a", "web"), system.online(f"{name}b", "web"))
        call = owned(system)
        lateness[who, call] = late
        told = {f"{name}a-web": "call:initiated", f"{name}b-web": "call:incoming"}
        return await answered_and_told(system, system.initiate(f"{name}a-web", f"{name}b", call=call), told)

    plans = every_lateness()
    answers = await side_by_side(place(name, *plan) for name, plan in plans.items())
    assert all(answers), [plan for plan, answer in zip(plans.values(), answers, strict=True) if not answer]
    assert not lateness


async def ghost(world: World, bus: Bus) -> None:
    """An owner of calls that hangs: it is a member, takes what is sent to it, and does nothing."""

    async def take(_: object) -> None:
        """Nothing comes of it."""

    for verb in ("happen", "initiate"):
        await bus.subscribe(subjects.rpc_at("calls", verb, "owner"), take)
    await bus.flush()

    async def beat() -> None:
        while True:
            world.bus.publish(subjects.live("callcore", "owner"), Beat(version="0", started_at=0).dump())
            await asyncio.sleep(1)

    world.beating = asyncio.create_task(beat())  # type: ignore[attr-defined]
    await world.until(lambda: "owner" in world.members.alive("callcore"))


@pytest_asyncio.fixture
async def orphaned(nats_url: str, world: World, lateness: object) -> AsyncIterator[World]:
    """``front`` alone, and an ``owner`` that hangs, or is dead and has not been missed yet."""
    world.client = RpcClient(world.bus, timeout=2.0)
    settings = Settings.model_validate({"nats_url": nats_url, "rate_limit": False, "sweep_seconds": 3600})
    bus = await Bus.connect(nats_url, name="owner")
    async with start(settings, "front"):
        await ghost(world, bus)
        await world.until(lambda: len(world.members.alive("callcore")) == 2)
        yield world
        world.beating.cancel()  # type: ignore[attr-defined]
    await bus.close()


async def test_commands_of_a_hanging_owner_are_applied_here_within_one_try(orphaned: World) -> None:
    world = orphaned

    async def whole_call(name: str) -> None:
        a, b = f"{name}a-web", f"{name}b-web"
        await asyncio.gather(world.online(f"{name}a", "web"), world.online(f"{name}b", "web"))
        call = owned(world)
        initiated = world.initiate(a, f"{name}b", call=call)
        assert await answered_and_told(world, initiated, {a: "call:initiated", b: "call:incoming"})
        assert await answered_and_told(world, world.accept(b, call), dict.fromkeys((a, b), "call:accepted"))
        assert await answered_and_told(world, world.end(a, call), dict.fromkeys((a, b), "call:ended"))

    await asyncio.gather(*(whole_call(f"u{number}") for number in range(10)))
    assert not world.client.again, "a request was tried again"


async def test_an_answer_that_accepts_needs_no_owner_that_hangs(orphaned: World) -> None:
    """The relay of it is taken by an instance that is not in charge any more."""
    world = orphaned
    call = await placed(world, "u")
    await world.relay(
        "ub-web", "ua", "call:answer", call, {"answer": {"type": "answer", "sdp": "x"}}, at="front"
    )
    for event in ("call:accepted", "call:answer"):
        await world.until(lambda event=event: world.to("ua-web", event), 1.7)
    assert world.to("ub-web", "call:accepted")


async def test_a_request_in_a_request_ends_before_it(orphaned: World) -> None:
    """Presence has a part of a gateway's time, call control a part of that, and the owner a part of that."""
    world = orphaned
    await placed(world, "u")
    request = LeftRequest(request_id="leave", user="ub", session="ub-web", gateway=GATEWAY, reason="hangup")
    await world.client.ask("calls", "left", request, Done, timeout=0.8)
    await world.until(lambda: world.to("ua-web", "call:ended"), TOLD_SECONDS)


async def test_an_answer_that_accepted_and_was_not_notified_is_notified_when_it_is_retransmitted(
    system: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gateway sends a relay again that nobody has acknowledged; the call is accepted by then."""
    world, notify, failed = system, Notifier.notify, 0

    def notify_later(self: Notifier, outcome: Outcome, *args: Any, **more: Any) -> None:
        nonlocal failed
        if outcome.call.state is State.ACCEPTED and failed < 2:
            failed += 1
            raise Unavailable  # as if both had died there
        notify(self, outcome, *args, **more)

    call = await placed(world, "u")
    monkeypatch.setattr(Notifier, "notify", notify_later)
    answer = {"answer": {"type": "answer", "sdp": "x"}}
    for _ in range(2):
        await world.relay("ub-web", "ua", "call:answer", call, answer)
        await asyncio.sleep(0.3)
        assert failed
        failed = 2
        world._number -= 2  # the next one is the same once more
    for session in ("ua-web", "ub-web"):
        await world.until(lambda session=session: world.to(session, "call:accepted"), TOLD_SECONDS)
    await world.until(lambda: world.to("ua-web", "call:answer"), TOLD_SECONDS)


async def test_the_address_of_a_device_does_not_hide_who_changed_the_state(
    world: World, callcore: Start
) -> None:
    """An accept that nobody was told of is told when it is tried again, though a session has moved since."""
    await callcore()
    await asyncio.gather(world.online("ua", "web"), world.online("ub", "web"))
    call = (await world.initiate("ua-web", "ub")).call
    await world.accept("ub-web", call, request_id="r1")
    request = AttachedRequest(request_id="r2", user="ua", session="ua-web", gateway="gw2")
    await world.client.ask("calls", "attached", request, Done)
    await world.accept("ub-web", call, request_id="r1")
    await world.until(lambda: len(world.to("ub-web", "call:accepted")) == 2, TOLD_SECONDS)
