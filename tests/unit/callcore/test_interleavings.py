"""Call control under every interleaving that Hypothesis can think of.

Several users with several devices call, accept, refuse, end, join and leave at once; deadlines fire; instances die
between any two operations, and their requests are tried again. Each read and write happens when Hypothesis says so.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.callcore.calls import call_service, call_setup
from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.call_service import CallService
from services.callcore.calls.call_setup import CallSetup
from services.callcore.calls.reconciler import Reconciler
from services.callcore.notify.notifier import Notifier
from services.callcore.state.model import (
    NEVER_UNANSWERED,
    Address,
    Call,
    CallInput,
    InputKind,
    State,
    Unanswered,
)
from services.callcore.store import FORMING_MS, Found, Store
from shared.contracts.calls import InitiateRequest, Reservation
from shared.contracts.presence import Session, Sessions
from shared.errors import SignallingError
from shared.messaging.policy_client import PolicyClient
from shared.nats.kv import Conflict, Entry
from tests.support.gated_bucket import Gate, GatedBucket

USERS = {"ann": ("a1", "a2"), "bob": ("b1", "b2"), "cem": ("c1",)}
OWNER = {session: user for user, sessions in USERS.items() for session in sessions}
TERMINAL = ("call:ended", "call:rejected")


async def _admit(_caller: str, _callee: str) -> Unanswered:
    """Admit every ring."""
    return NEVER_UNANSWERED


class Memory:
    """What one instance has told of calls; others may have changed them since."""

    def __init__(self) -> None:
        self.calls: dict[str, Found] = {}

    def announce(self, call: Call, revision: int, **_: Any) -> None:
        if call.state is State.ENDED:
            self.calls.pop(call.call, None)
        else:
            self.calls[call.call] = Found(call, revision)


class World:
    """Three instances of call control on one pair of buckets, and everything that is to hold of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000
        self.gate = Gate()
        self.calls = GatedBucket(self.gate, "calls", self._check_write)
        self.sessions = GatedBucket(self.gate, "sessions")
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.tasks: list[tuple[asyncio.Task[Any], InitiateRequest | None]] = []
        self.count = 0
        self._turn = 0
        for module in (call_setup, call_service):
            monkeypatch.setattr(module, "now_ms", lambda: self.now)
        monkeypatch.setattr("shared.messaging.time_budget.now_ms", lambda: self.now)
        monkeypatch.setattr("services.callcore.calls.reconciler.now_ms", lambda: self.now)
        self.calls.lost_race = self._lost_race
        state = Store(self.calls, self.sessions)  # type: ignore[arg-type]
        policy = PolicyClient(None, "off")  # type: ignore[arg-type]  # nobody is asked
        self._call_services: list[CallService] = []
        self._call_setups: list[CallSetup] = []
        # Each thinks that it is in charge of every call, and goes by what it has told of it itself: the worst that can
        # happen to the order of things.
        for name in ("one", "two", "three"):
            call_owner = CallOwner(name, lambda _, name=name: name, None)  # type: ignore
            memory = Memory()
            notifier = Notifier(memory.announce, self, self)  # type: ignore[arg-type]
            its = CallService(state, notifier, call_owner, memory.calls.get, lambda _: None, lambda _: None)
            self._call_services.append(its)
            self._call_setups.append(
                CallSetup(state, notifier, its, call_owner, policy, self._deadline, _admit, ring_timeout=45)
            )
        self.reconciler = Reconciler(
            state, self.call_service, lambda _: True, seconds=15, second_check_seconds=0.0
        )
        for user, sessions in USERS.items():
            self._write_sessions(user, sessions)

    @property
    def call_service(self) -> CallService:
        """One instance after the other."""
        self._turn += 1
        return self._call_services[self._turn % 3]

    @property
    def call_setup(self) -> CallSetup:
        """One instance after the other."""
        self._turn += 1
        return self._call_setups[self._turn % 3]

    # --- what call control talks to ---

    async def _lost_race(self, attempt: int) -> None:
        self.now += 5
        await self.gate.turn("back off")

    async def _deadline(self, call: Call) -> None:
        await asyncio.sleep(0)

    def deliver(self, gateway: str, session: str, event: str, payload: bytes, reply: str = "") -> None:
        body = json.loads(payload)
        call = self.call(body["callId"])
        assert OWNER[session] in (call.caller, call.callee), f"{event} told to a stranger"
        self.told.append((session, event, body))

    def record(self, subject: str, id_: str, body: dict[str, Any]) -> None:
        pass

    # --- what must hold at every moment ---

    def _check_write(self, key: str, before: Entry, value: bytes | None) -> None:
        if key.startswith("call."):
            was = Call.model_validate_json(before.value) if before.value else None
            if was is not None and was.state is State.ENDED:
                assert value is not None
                assert _end_of(Call.model_validate_json(value)) == _end_of(was), "a call ended once more"
                assert was.caused_by.startswith("sweep "), "only a sweep notes that it has told"
            if value is not None and (was is None or was.state is not State.RINGING):
                now = Call.model_validate_json(value)
                assert was is None or now.state is not State.RINGING, "an accepted call rings again"
        self._check()

    def _check(self) -> None:
        for key in self.calls.entries:
            if key.startswith("call."):
                call = self.call(key.removeprefix("call."))
                if call.state is not State.ENDED:
                    for user in (call.caller, call.callee):
                        reservation = self.reservation(user)
                        assert reservation is not None and reservation.call == call.call, (
                            f"{call.call} lives, {user} is not held"
                        )

    def call(self, call: str) -> Call:
        entry = self.calls.entries[f"call.{call}"]
        assert entry.value is not None
        return Call.model_validate_json(entry.value)

    def reservation(self, user: str) -> Reservation | None:
        entry = self.calls.entries.get(f"user.{user}")
        return Reservation.model_validate_json(entry.value) if entry is not None and entry.value else None

    def live(self) -> list[Call]:
        calls = [
            self.call(key.removeprefix("call.")) for key in self.calls.entries if key.startswith("call.")
        ]
        return [call for call in calls if call.state is not State.ENDED]

    # --- what the users do ---

    def _write_sessions(self, user: str, sessions: tuple[str, ...]) -> None:
        records = tuple(
            Session(session=s, gateway="gw", socket=s, since=0, resume_token="t") for s in sessions
        )
        value = Sessions(user=user, sessions=records).dump() if records else None
        self.sessions.write(f"user.{user}", value)

    def _spawn(self, command: Coroutine[Any, Any, Any], request: InitiateRequest | None = None) -> None:
        async def run() -> None:
            try:
                await command
            except SignallingError:
                pass
            except Conflict:
                pytest.fail("a lost race came out")

        self.tasks.append((asyncio.ensure_future(run()), request))

    def initiate(self, session: str, to: str) -> None:
        user = OWNER[session]
        if to == user:
            return
        self.count += 1
        request = InitiateRequest(
            request_id=f"r{self.count}",
            expires_at=self.now + 2000,
            user=user,
            session=session,
            gateway="gw",
            call=f"call{self.count}",
            to=to,
            call_type="audio",
        )
        self._spawn(self.call_setup.initiate(request), request)

    def apply(self, session: str, kind: InputKind) -> None:
        user = OWNER[session]
        reservation = self.reservation(user)
        if reservation is not None:
            self.count += 1
            event = CallInput(kind, f"r{self.count}", user, Address(session=session, gateway="gw"))
            self._spawn(self.call_service.apply(reservation.call, event))

    def leave(self, session: str) -> None:
        self._change_sessions(session, there=False, kind=InputKind.LEFT)

    def join(self, session: str) -> None:
        self._change_sessions(session, there=True, kind=InputKind.ATTACHED)

    def _change_sessions(self, session: str, *, there: bool, kind: InputKind) -> None:
        user = OWNER[session]
        entry = self.sessions.entries[f"user.{user}"]
        now = [s.session for s in Sessions.model_validate_json(entry.value).sessions] if entry.value else []
        if (session in now) == there:
            return
        self._write_sessions(user, tuple([*now, session] if there else [s for s in now if s != session]))
        self.count += 1
        event = CallInput(kind, f"r{self.count}", user, Address(session=session, gateway="gw"))
        self._spawn(self.call_service.apply_to_user(event))

    def time_out(self) -> None:
        for call in self.live():
            self._spawn(self.call_service.time_out(call.call))

    async def crash(self, index: int) -> None:
        """An instance dies with one deed in hand; if it was a call being placed, the gateway tries it again."""
        running = [(task, request) for task, request in self.tasks if not task.done()]
        if running:
            task, request = running[index % len(running)]
            task.cancel()
            await self.gate.settle()
            if request is not None:
                self.now += 2001
                self._spawn(
                    self.call_setup.initiate(request.model_copy(update={"expires_at": self.now + 2000})),
                    request,
                )

    def overtake(self, index: int) -> None:
        """A call being placed is tried again while the first try is only slow."""
        running = [request for task, request in self.tasks if request is not None and not task.done()]
        if running:
            request = running[index % len(running)]
            self.now = max(self.now, request.expires_at + 1)
            self._spawn(
                self.call_setup.initiate(request.model_copy(update={"expires_at": self.now + 2000})), request
            )

    def settle(self, request_id: str) -> None:
        """The gateway of a call being placed has given it up."""
        request = next(r for _, r in self.tasks if r is not None and r.request_id == request_id)
        until = {"settle": True, "expires_at": self.now + 2000}
        self._spawn(self.call_setup.initiate(request.model_copy(update=until)), None)

    async def finish(self) -> None:
        """Let everything that waits happen, oldest first."""
        await self.gate.settle()
        for _ in range(5000):
            if not self.gate.waiting:
                break
            await self.gate.let(0)
        assert not self.gate.waiting, "it never comes to rest"
        for task, _ in self.tasks:
            assert task.done()
            if not task.cancelled():
                task.result()


sessions = st.sampled_from(sorted(OWNER))
actions = st.one_of(
    st.tuples(st.just("initiate"), sessions, st.sampled_from(sorted(USERS))),
    st.tuples(
        st.just("apply"), sessions, st.sampled_from([InputKind.ACCEPT, InputKind.REJECT, InputKind.END])
    ),
    st.tuples(st.just("leave"), sessions),
    st.tuples(st.just("join"), sessions),
    st.tuples(st.just("time_out")),
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(st.just("overtake"), st.integers(0, 9)),
)
turn = st.tuples(st.just("turn"), st.integers(0, 30))
scripts = st.lists(st.one_of(actions, turn, turn, turn, turn), min_size=1, max_size=60)


async def play(world: World, script: list[tuple[Any, ...]]) -> None:
    for name, *args in script:
        if name == "turn":
            if world.gate.waiting:
                await world.gate.let(args[0])
        elif name == "crash":
            await world.crash(*args)
            await world.gate.settle()
        else:
            getattr(world, name)(*args)
            await world.gate.settle()
    await world.finish()


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts)
@example(script=[("initiate", "b1", "ann"), ("leave", "b1"), *[("turn", 0)] * 3, ("overtake", 0)])
def test_any_interleaving(script: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(_one(monkeypatch, script))


async def _one(monkeypatch: pytest.MonkeyPatch, script: list[tuple[Any, ...]]) -> None:
    world = World(monkeypatch)
    await play(world, script)
    crashed = any(name in ("crash", "overtake") for name, *_ in script)
    if not crashed:
        _nobody_is_held_without_a_call(world)
        _each_side_is_told_one_end(world)
        _no_caller_is_missing(world)
    # Whatever died on the way, one look around puts it right.
    world.now += FORMING_MS + 60_000
    world.tasks.append((asyncio.ensure_future(world.reconciler.run_once()), None))
    await world.finish()
    _nobody_is_held_without_a_call(world)
    assert all(call.state is State.ACCEPTED for call in world.live()), "a call rings past its deadline"
    for call in world.live():
        for user, at in ((call.caller, call.caller_at), (call.callee, call.callee_at)):
            entry = world.sessions.entries[f"user.{user}"]
            assert at is not None and entry.value is not None and at.session.encode() in entry.value


def _nobody_is_held_without_a_call(world: World) -> None:
    live = {call.call for call in world.live()}
    for user in USERS:
        reservation = world.reservation(user)
        assert reservation is None or reservation.call in live, f"{user} is held without a call"


def _no_caller_is_missing(world: World) -> None:
    for call in world.live():
        entry = world.sessions.entries[f"user.{call.caller}"]
        assert entry.value and call.caller_at.session.encode() in entry.value, (
            f"{call.call}: its caller has left"
        )


def _each_side_is_told_one_end(world: World) -> None:
    ends: dict[tuple[str, str], int] = {}
    for session, event, body in world.told:
        if event in TERMINAL:
            key = (session, body["callId"])
            ends[key] = ends.get(key, 0) + 1
    twice = {key for key, count in ends.items() if count > 1 and not _rang_again(world, key)}
    assert not twice, f"told two ends: {twice}"


def _rang_again(world: World, key: tuple[str, str]) -> bool:
    """A device that left and came back is told of the call again, and of its end again."""
    incoming = [
        1
        for session, event, body in world.told
        if (session, body["callId"]) == key and event == "call:incoming"
    ]
    return len(incoming) > 1


def _end_of(call: Call) -> tuple[object, ...]:
    """What users are told of an end."""
    return call.state, call.ended_at, call.ended_by, call.reason, call.accepted_at, call.holds
