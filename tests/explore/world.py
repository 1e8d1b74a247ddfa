"""A small world of call control and presence: actors on instances, what is stored, and what must be true of it."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from contextvars import copy_context
from typing import Any, NamedTuple

from services.callcore.calls.call_owner import CallOwner
from services.callcore.relay.route_cache import RouteCache
from services.callcore.state.model import NEVER_UNANSWERED, Call, State, Unanswered
from services.callcore.store import FORMING_MS, Found
from services.presence.join_limiter import JoinLimiter
from services.presence.model import Minted, SessionPolicy
from shared.contracts.calls import Reservation
from shared.contracts.presence import Session, Sessions
from shared.errors import SignallingError
from shared.messaging.policy_client import PolicyClient
from shared.nats.kv import Entry
from tests.explore.code import Change, load
from tests.explore.explorer import Footprint, Step
from tests.explore.loop import ACTOR, Operation, SteppedBucket, SteppedLoop

USERS = {"a": "ann", "b": "bob", "c": "cem"}
TERMINAL = ("call:ended", "call:rejected")
PATIENCE_MS = 2_000
"""Milliseconds that a requester waits for one try."""
BEGIN_MS = 1_000_000
WAITS_MAX = 3
RETRIES_FREE = 1
"""Lost races of one actor after which it lets all others go first.

Two who race could meet again at each of forty tries; random waits make that unlikely, and nothing new comes of it.
"""


def user_of(session: str) -> str:
    """The user of a session; the first letter says it."""
    return USERS[session[0]]


class Try(NamedTuple):
    """One try of an actor's request. ``expires_at``: 0 for an asker that cannot be overtaken."""

    number: int
    expires_at: int
    instance: "Instance"


class Actor(NamedTuple):
    """A client, gateway or deadline that sends the services one request, once.

    ``begin``: sends the request. ``ready``: True if it can begin; once it can, it can for ever. ``reads``: what that
    depends on. ``call``: the id of the call that it sets up, if any.
    """

    name: str
    instance: int
    begin: Callable[["World", Try], Coroutine[Any, Any, Any]]
    ready: Callable[["World"], bool] = lambda _: True
    reads: tuple[Hashable, ...] = ()
    kind: str = ""
    call: str = ""
    session: str = ""
    request: str = ""


class Spec(NamedTuple):
    """A world to explore. ``before``: what has happened already, one after the other.

    ``crash``: instances of which one may die, once, at any moment. ``overtaken``: the actor whose first try may be
    overtaken by the second. ``sessions``: those that are there.
    """

    name: str
    actors: tuple[Actor, ...]
    before: tuple[Actor, ...] = ()
    crash: tuple[int, ...] = ()
    overtaken: str = ""
    sessions: tuple[str, ...] = ("a1", "b1", "b2", "c1")
    large: bool = False
    """Left to ``make explore``."""


class Instance:
    """One instance of call control and presence. It behaves as the owner of every call.

    Its route cache has only what it has announced itself: the worst case for the order of transitions.
    """

    def __init__(self, world: "World", number: int) -> None:
        code = world.code
        self.world, self.number = world, number
        self.route_cache = RouteCache()
        store = code.store.Store(world.calls, world.sessions)
        notifier = code.notifier.Notifier(self._announce, world, world)
        call_owner = _Owner(world, f"i{number}")
        call_service = code.call_service.CallService(
            store, notifier, call_owner, self._cached_call, lambda _: None, lambda _: None
        )
        call_setup = code.call_setup.CallSetup(
            store, notifier, call_service, call_owner, _ALL_MAY, world.set_deadline, _admit, ring_timeout=45
        )
        self.call_service, self.store = call_service, store
        self.calls = code.handlers.Handlers(call_setup, call_service, call_owner)
        self.reconciler = code.reconciler.Reconciler(
            store, call_service, lambda _: True, seconds=15, second_check_seconds=0.0
        )
        records = code.presence_store.Store(None)
        announcer = code.presence_notifier.Notifier(_Nowhere(), _Nowhere(), self, records.call_of)
        policy = SessionPolicy(single=False, limit=8, grace_ms=30_000)
        limiter = JoinLimiter(None, None, _Nowhere())  # type: ignore[arg-type]  # no limit
        self.joins = code.join_service.JoinService(
            records, announcer, _Nowhere(), _Answering(), limiter, policy, _Nowhere()
        )
        self.presence = code.presence_handlers.Handlers(
            records, announcer, _Nowhere(), _Nowhere(), self.joins, _ALL_MAY
        )

    timeout = 1.0
    """Of what presence asks call control, in seconds; time passes only when the world says so."""

    async def ask(self, _service: str, verb: str, request: Any, _reply: Any = None, **_: Any) -> Any:
        """Presence, or a gateway, asks call control: this instance, and the next one if this one dies."""
        running = self.world.running(ACTOR.get())
        running.asks, running.at = asyncio.ensure_future(getattr(self.calls, verb)(request)), self
        try:
            return await running.asks
        except asyncio.CancelledError:
            if not running.asks.cancelled() or running.task.cancelling():
                raise
        finally:
            running.at = None
        other = self.world.instances[(self.number + 1) % len(self.world.instances)]
        return await getattr(other.calls, verb)(request.model_copy(update={"attempt": 2}))

    def _cached_call(self, call: str) -> Found | None:
        self.world.touch(("known", self.number, call), "r")
        cached = self.route_cache.get(call)
        return Found(cached.call, cached.revision) if cached is not None else None

    def _announce(self, call: Call, revision: int, **_: Any) -> None:
        self.world.touch(("known", self.number, call.call), "w")
        self.route_cache.update(call, revision, 0.0, [])


class _Running:
    """A try under way."""

    def __init__(self, actor: Actor, attempt: Try, task: "asyncio.Task[Any]") -> None:
        self.actor = actor
        self.attempt = attempt
        self.task = task
        self.history = 0
        """A sum over its operations and what each returned, which determines where it is.

        Begun anew when it backs off: of what it did before nothing is left then but how often it was.
        """
        self.seen: dict[tuple[str, str], int] = {}
        """Revisions that it has read since it decided last; of entry ``clock``, the time."""
        self.backing_off: asyncio.Future[None] | None = None
        self.at: Instance | None = attempt.instance if actor.request else None
        """The instance of call control that works for it; ``None`` while it is with presence, which does not die."""
        self.asks: asyncio.Future[Any] | None = None
        """What it has asked of call control, if it has got further than that itself."""
        self.retries = 0
        self.looked = 0
        """How often it has read the clock since then."""


class World:
    """See :class:`tests.explore.explorer.World`."""

    def __init__(self, spec: Spec, code: Any, past: "World | None") -> None:
        self.spec, self.code = spec, code
        self.loop = SteppedLoop()
        self._before_me = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        self.now = BEGIN_MS
        self.calls = SteppedBucket("calls", self._begun, self._check_write, self._lost_race)
        self.sessions = SteppedBucket("sessions", self._begun, None, self._lost_race)
        code.presence_store.space["Bucket"] = lambda _, name: self.calls if name == "calls" else self.sessions
        self.told: Counter[tuple[str, str, str, str]] = Counter()
        """(session, event, call, by and reason) → how often."""
        self.transitions: dict[str, tuple[tuple[State, str, str], ...]] = {}
        """Call → (state, request that caused it, accepting session), as stored one after the other."""
        self.deadlines: set[str] = set()
        self._footprint: dict[Hashable, str] = {}
        self._pending: dict[str, Operation] = {}
        self._running: dict[str, _Running] = {}
        self._to_come = {actor.name: actor for actor in spec.actors}
        self._again: dict[str, Actor] = {}
        self.answers: dict[str, str] = {}
        """Actor's request → what its last try was answered."""
        self._crashed = ""
        self._overtaken = False
        self._waits = 0
        self._finishing = False
        self.instances = [Instance(self, number) for number in range(3)]
        code.now = self._clock
        if past is None:
            for user in sorted({user_of(session) for session in spec.sessions}):
                its = tuple(
                    Session(session=s, gateway="gw", socket=s, since=0, resume_token="t")
                    for s in spec.sessions
                    if user_of(s) == user
                )
                self.sessions.write(f"user.{user}", Sessions(user=user, sessions=its).dump())
            for actor in spec.before:
                self._run_alone(actor)
        else:
            self.now = past.now
            self.calls.entries.update(past.calls.entries)
            self.sessions.entries.update(past.sessions.entries)
            self.told.update(past.told)
            self.transitions.update(past.transitions)
            self.deadlines.update(past.deadlines)
            self.answers.update(past.answers)
            for mine, its in zip(self.instances, past.instances, strict=True):
                for call in past.transitions:
                    if (cached := its.route_cache.get(call)) is not None:
                        mine.route_cache.update(cached.call, cached.revision, 0.0, [])

    def close(self) -> None:
        for running in self._running.values():
            running.task.cancel()
        self.loop.settle()
        asyncio._set_running_loop(self._before_me)

    # --- what may happen ---

    def steps(self) -> list[Step]:
        steps: list[Step] = [("start", name) for name, actor in self._to_come.items() if actor.ready(self)]
        steps += [("again", name) for name in self._again]
        steps += [("do", op.actor, op.id) for op in self._pending.values()]
        steps += [("retry", name) for name, one in self._running.items() if self._may_retry(one)]
        if not self._crashed:
            for number in self.spec.crash:
                instance = self.instances[number]
                its = {name for name, one in self._running.items() if one.at is instance}
                if its:
                    steps.append(("crash", str(number)))
                    steps += [
                        ("crash", str(number), op.id)
                        for op in self._pending.values()
                        if op.actor in its and op.writes
                    ]
        name = self.spec.overtaken
        if name in self._running and not self._overtaken:
            steps.append(("late", name))
            steps += [("late", name, op.id) for op in self._pending.values() if op.actor == name]
        backing_off = [name for name, one in self._running.items() if one.backing_off]
        if not steps and backing_off:
            patient = [name for name in backing_off if self._has_changed(self._running[name])]
            steps.append(("retry", min(patient)) if patient else ("wait",))
        return sorted(steps)

    def take(self, step: Step) -> Footprint:
        self._footprint = {}
        match step:
            case ("start", name):
                actor = self._to_come.pop(name)
                for resource in actor.reads:
                    self.touch(resource, "r")
                expires_at = self._clock() + PATIENCE_MS if name == self.spec.overtaken else 0
                self._start(name, actor, Try(1, expires_at, self.instances[actor.instance]))
            case ("again", name):
                actor = self._again.pop(name)
                other = self.instances[(actor.instance + 1) % len(self.instances)]
                self._start(name, actor, Try(2, 0, other))
            case ("do", _, id_):
                op = self._pending.pop(id_)
                op.hear(self._perform(op))
            case ("retry", name):
                self._go_on(self._running[name])
            case ("crash", number, *ids):
                for id_ in ids:
                    self._perform(self._pending.pop(id_))
                self._crash(int(number))
            case ("late", name, *ids):
                ops = [self._pending.pop(id_) for id_ in ids]
                outcomes = [self._perform(op) for op in ops]
                self._overtaken = True
                self.touch("clock", "w")
                self.touch(("actor", name), "w")
                self.now += PATIENCE_MS + 1
                self._again[name + "'"] = self._running[name].actor
                for op, outcome in zip(ops, outcomes, strict=True):
                    op.hear(outcome)
            case ("wait",):
                self._waits += 1
                assert self._waits <= WAITS_MAX, f"never comes to rest: {sorted(self._running)}"
                self.touch("clock", "w")
                self.now += FORMING_MS + 1
        self.loop.settle()
        self._collect()
        return self._footprint

    def state(self) -> Hashable:
        return hash(
            (
                frozenset(self.calls.entries.items()),
                frozenset(self.sessions.entries.items()),
                frozenset(
                    (name, one.history, one.retries, bool(one.backing_off))
                    for name, one in self._running.items()
                ),
                frozenset(self._pending),
                frozenset(self._to_come),
                frozenset(self._again),
                frozenset(self.answers.items()),
                frozenset(self.told.items()),
                frozenset(self.transitions.items()),
                frozenset(self.deadlines),
                tuple(
                    (cached.revision, cached.call.state)
                    for instance in self.instances
                    for call in sorted(self.transitions)
                    if (cached := instance.route_cache.get(call)) is not None
                ),
                self.now,
                self._crashed,
                self._overtaken,
                self._waits,
            )
        )

    def running(self, name: str) -> "_Running":
        """A try under way."""
        return self._running[name]

    def touch(self, resource: Hashable, how: str) -> None:
        """Note that the step under way uses ``resource``."""
        was = self._footprint.get(resource, how)
        self._footprint[resource] = how if was == how else "w"

    # --- running ---

    def _start(self, name: str, actor: Actor, attempt: Try) -> None:
        context = copy_context()
        context.run(ACTOR.set, name)
        self.touch(("actor", name), "w")
        self.touch(("instance", attempt.instance.number), "a")
        task = asyncio.Task(actor.begin(self, attempt), loop=self.loop, context=context)
        self._running[name] = _Running(actor, attempt, task)

    def _begun(self, op: Operation) -> None:
        if op.key.startswith("at."):
            # Only a gateway's lease reads these, and there is none here: when they happen makes no difference.
            op.hear(op.perform())
            return
        self.touch(("actor", op.actor), "w")
        self._pending[op.id] = op

    def _perform(self, op: Operation) -> tuple[Any, BaseException | None]:
        self.touch(("actor", op.actor), "w")
        self.touch(
            (op.bucket.name, op.key) if op.key else (op.bucket.name, "keys"), "w" if op.writes else "r"
        )
        outcome = op.perform()
        one = self._running[op.actor]
        if op.key:
            entry = op.bucket.entries.get(op.key)
            returned: Hashable = entry if not op.writes else (entry, outcome[1] is None)
            if not op.writes:
                one.seen[op.bucket.name, op.key] = entry.revision if entry is not None else 0
        else:
            returned = tuple(sorted(op.bucket.entries))
        if op.writes and outcome[1] is None:
            self.touch((op.bucket.name, "keys"), "a")
        one.history = (one.history + hash((op.id, returned))) & 0xFFFFFFFFFFFFFFFF
        return outcome

    def _collect(self) -> None:
        for name, one in list(self._running.items()):
            if one.task.done():
                del self._running[name]
                self.answers[one.actor.request] = self._answer(one)

    def _answer(self, one: _Running) -> str:
        if one.attempt.number == 1 and one.actor.name + "'" in self._again:
            return "unheard"
        if self._overtaken and one.attempt.number == 1 and one.actor.name == self.spec.overtaken:
            return self.answers.get(one.actor.request, "unheard")  # the second try is the one that counts
        error = one.task.exception()
        if error is None:
            return f"ok {getattr(one.task.result(), 'call', '')}".strip()
        if isinstance(error, SignallingError):
            return error.code
        raise AssertionError(f"{one.actor.name} failed: {error!r}") from error

    def _crash(self, number: int) -> None:
        self._crashed = str(number)
        self.touch(("instance", number), "w")
        instance = self.instances[number]
        for name, one in list(self._running.items()):
            if one.at is not instance:
                continue
            self.touch(("actor", name), "w")
            self._pending = {key: op for key, op in self._pending.items() if op.actor != name}
            one.backing_off = None
            if one.asks is not None:
                one.asks.cancel()  # it asks elsewhere
                one.history += hash("asks again")
                continue
            one.task.cancel()
            self.loop.settle()
            del self._running[name]
            if one.attempt.number == 1 and not (self._overtaken and name == self.spec.overtaken):
                self._again[name + "'"] = one.actor
        self._footprint |= dict.fromkeys((("known", number, call) for call in self.transitions), "w")
        instance.route_cache = RouteCache()

    def _may_retry(self, one: _Running) -> bool:
        return one.backing_off is not None and one.retries <= RETRIES_FREE and self._has_changed(one)

    def _has_changed(self, one: _Running) -> bool:
        """True if what it has read has changed since: else it would come to the same and wait again."""
        buckets = {"calls": self.calls, "sessions": self.sessions}
        for (bucket, key), revision in one.seen.items():
            now = self.now if bucket == "clock" else buckets[bucket].entries.get(key, _NONE).revision
            if now != revision:
                return True
        return False

    def _go_on(self, one: _Running) -> None:
        assert one.backing_off is not None
        self.touch(("actor", one.actor.name), "w")
        for name, key in one.seen:
            self.touch(name if name == "clock" else (name, key), "r")
        waiting, one.backing_off = one.backing_off, None
        one.seen.clear()
        waiting.set_result(None)

    async def _lost_race(self, _attempt: int) -> None:
        one = self._running[ACTOR.get()]
        self.touch(("actor", ACTOR.get()), "w")
        one.seen["clock", ""] = self.now
        one.backing_off = self.loop.create_future()
        one.retries += 1
        one.history = one.looked = 0
        for bucket in (self.calls, self.sessions):
            bucket.begin_anew(ACTOR.get(), one.retries)
        await one.backing_off

    def _clock(self) -> int:
        self.touch("clock", "r")
        one = self._running.get(ACTOR.get(""))
        if one is not None:
            one.looked += 1
            one.history += hash(("clock", one.looked, self.now))
        return self.now

    def _run_alone(self, actor: Actor) -> None:
        self._start(actor.name, actor, Try(1, 0, self.instances[actor.instance]))
        self.loop.settle()
        while self._pending:
            op = self._pending.pop(next(iter(self._pending)))
            op.hear(self._perform(op))
            self.loop.settle()
        self._collect()
        assert not self._running, f"{actor.name} does not come to an end by itself"

    # --- what the services talk to ---

    def set_deadline(self, call: Call) -> "asyncio.Future[None]":
        self.touch(("deadline", call.call), "w")
        self.deadlines.add(call.call)
        done = self.loop.create_future()
        done.set_result(None)
        return done

    def deliver(self, _gateway: str, session: str, event: str, payload: bytes, _reply: str = "") -> None:
        body = json.loads(payload)
        call = self.call(body["callId"])
        assert call is not None, f"{event} told of no call"
        assert user_of(session) in (call.caller, call.callee), f"{event} told to a stranger"
        self.touch(("told", session), "a")
        why = f"{body.get('by', '')} {body.get('reason', '')}"
        self.told[session, event, call.call, why] += 1

    def record(self, _subject: str, _id: str, _body: Any) -> None:
        pass

    # --- what is so ---

    def call(self, id_: str) -> Call | None:
        """Return the stored call."""
        entry = self.calls.entries.get(f"call.{id_}")
        return Call.model_validate_json(entry.value) if entry is not None and entry.value else None

    def reservation(self, user: str) -> Reservation | None:
        """Return the reservation of a user."""
        entry = self.calls.entries.get(f"user.{user}")
        return Reservation.model_validate_json(entry.value) if entry is not None and entry.value else None

    def heard(self, session: str, event: str, call: str) -> bool:
        """True if a session was sent an event of a call."""
        return any(key[:3] == (session, event, call) for key in self.told)

    def there(self, user: str) -> list[str]:
        """Return the ids of the sessions of a user."""
        entry = self.sessions.entries.get(f"user.{user}")
        if entry is None or entry.value is None:
            return []
        return [s.session for s in Sessions.model_validate_json(entry.value).sessions]

    # --- what must be true at every moment ---

    def _check_write(self, key: str, before: Entry, value: bytes | None) -> None:
        kind, _, id_ = key.partition(".")
        if kind == "call":
            was = Call.model_validate_json(before.value) if before.value else None
            now = Call.model_validate_json(value) if value else None
            assert now is not None, f"{id_} is not there any more"
            self._check_transition(was, now)
            at = now.callee_at.session if now.callee_at is not None else ""
            self.transitions[id_] = (*self.transitions.get(id_, ()), (now.state, now.caused_by, at))
        self._check_reservations()

    def _check_transition(self, was: Call | None, now: Call) -> None:
        if was is not None and was.state is State.ENDED:
            # A reconciler that ended the call notes that it has notified. All else about an ended call stays.
            assert was.caused_by.startswith("sweep "), f"{now.call} was ended and is {now.state}"
            unchanged = {"caused_by": was.caused_by, "moved_by": was.moved_by}
            assert now.model_copy(update=unchanged) == was, f"{now.call} ended once more"
            return
        legal = {
            None: (State.RINGING, State.ENDED),
            State.RINGING: (State.RINGING, State.ACCEPTED, State.ENDED),
            State.ACCEPTED: (State.ACCEPTED, State.ENDED),
            State.ENDED: (),
        }
        before = was.state if was is not None else None
        assert now.state in legal[before], f"{now.call} was {before} and is {now.state}"
        assert (now.callee_at is not None) == (now.accepted_at is not None), f"{now.call}: half accepted"
        assert now.state is not State.RINGING or now.callee_at is None, f"{now.call} rings, but is accepted"
        assert now.state is not State.ACCEPTED or now.callee_at is not None, f"{now.call} is accepted by none"
        assert (now.state is State.ENDED) == (now.ended_at is not None and now.reason is not None), (
            f"{now.call} has no end, or one too early"
        )
        if was is None and now.state is State.RINGING:
            assert now.call in self.deadlines, f"{now.call} rings without a deadline"
        if was is not None and was.callee_at is not None and now.callee_at is not None:
            assert was.callee_at.session == now.callee_at.session, f"{now.call} is accepted twice"

    def _live(self) -> list[Call]:
        calls = [self.call(id_) for id_ in self.transitions]
        return [call for call in calls if call is not None and call.state is not State.ENDED]

    def _check_reservations(self) -> None:
        live = self._live()
        for call in live:
            for user in (call.caller, call.callee):
                reservation = self.reservation(user)
                assert reservation is not None and reservation.call == call.call, (
                    f"{call.call} lives, {user} is not reserved"
                )
        users = [user for call in live for user in (call.caller, call.callee)]
        assert len(set(users)) == len(users), f"a user is in two calls: {sorted(users)}"

    # --- what must be true in the end ---

    def finish(self) -> None:
        self._check_answers()
        self._check_told()
        self._check_sessions_present()
        if not self._call_setup_was_disturbed():
            self._check_reservations_released()
        # What rings on is ended by its deadline; whatever died on the way, one look around puts it right.
        self._overtaken = True
        self.now += FORMING_MS + 60_000
        for call in self._live():
            if call.state is State.RINGING:
                self._run_alone(_time_out(call.call))
        self._run_alone(_RECONCILE)
        self._finishing = True
        self._check_reservations_released()
        self._check_sessions_present()
        self._check_told()
        for call in self._live():
            assert call.state is State.ACCEPTED, f"{call.call} rings past its deadline"

    def _call_setup_was_disturbed(self) -> bool:
        """True if a try to set up a call died or was overtaken: its reservations are released after a moment."""
        disturbed = {self.spec.overtaken} if self._overtaken else set()
        if self._crashed:
            disturbed |= {actor.name for actor in self.spec.actors if actor.instance == int(self._crashed)}
        return any(actor.kind == "initiate" for actor in self.spec.actors if actor.name in disturbed)

    def _check_reservations_released(self) -> None:
        live = {call.call for call in self._live()}
        for user in USERS.values():
            reservation = self.reservation(user)
            assert reservation is None or reservation.call in live, f"{user} is reserved without a call"

    def _check_sessions_present(self) -> None:
        leaving = {actor.name for actor in self.spec.actors}
        for call in self._live():
            at = call.callee_at
            there = self.there(call.caller), self.there(call.callee)
            # For the reconciler to find: a session that is gone unreported, an acceptance after its device has left.
            repaired = f"gone-{call.caller_at.session}" in leaving and not self._finishing
            assert repaired or call.caller_at.session in there[0], f"{call.call} goes on without its caller"
            repaired = at is not None and f"leave-{at.session}" in leaving and not self._finishing
            assert at is None or repaired or at.session in there[1], f"{call.call} goes on without its callee"
            if call.state is State.RINGING:
                for session in there[1]:
                    assert self.heard(session, "call:incoming", call.call), f"{session} does not ring"

    def _over(self, id_: str) -> bool:
        """True if a call has ended, or was never created."""
        call = self.call(id_)
        return call is None or call.state is State.ENDED

    def _check_answers(self) -> None:
        disturbed = bool(self._crashed) or self._overtaken
        for actor in (*self.spec.before, *self.spec.actors):
            answer = self.answers.get(actor.request)
            if answer is None or not actor.request:
                continue
            done = [
                (call, state, at)
                for call, transitions in self.transitions.items()
                for state, cause, at in transitions
                if cause == actor.request
            ]
            if not answer.startswith("ok"):
                # A try that died or was overtaken may have done it, and somebody else may have ended the call then.
                over = disturbed and all(self._over(call) for call, _, _ in done)
                assert not done or over, f"{actor.name} is answered {answer}, but was done"
                assert answer != "unavailable" or disturbed, f"{actor.name} is told to try again"
                if actor.kind == "initiate":
                    assert self._over(actor.call), f"{actor.name} is answered {answer}, but its call lives"
            elif actor.kind == "initiate":
                # A try that died or was overtaken may have told nobody that it rings.
                events = ("call:initiated", "call:accepted", *TERMINAL) if disturbed else ("call:initiated",)
                call = answer.removeprefix("ok ")
                told = any(self.heard(actor.session, event, call) for event in events)
                left = actor.session not in self.there(user_of(actor.session))
                assert told or left, f"{actor.name}: ok, but not told of its call"
            elif actor.kind == "accept":
                assert (actor.call, State.ACCEPTED, actor.session) in done, (
                    f"{actor.name}: ok, but not accepted"
                )
                assert self.heard(actor.session, "call:accepted", actor.call), (
                    f"{actor.name}: ok, but not told"
                )
            elif actor.kind == "end":
                assert self._over(actor.call), f"{actor.name}: ok, but it lives"

    def _check_told(self) -> None:
        """Each device that has heard of a call hears one end of it, if it is still there."""
        disturbed = bool(self._crashed) or self._overtaken
        for id_, transitions in self.transitions.items():
            call = self.call(id_)
            assert call is not None
            ways: dict[str, set[tuple[str, str]]] = {}
            times: Counter[str] = Counter()
            accepted: set[str] = set()
            incoming: Counter[str] = Counter()
            for (session, event, of, why), count in self.told.items():
                if of != id_:
                    continue
                ways.setdefault(session, set())
                if event in TERMINAL:
                    ways[session].add((event, why))
                    times[session] += count
                elif event == "call:accepted":
                    accepted.add(session)
                elif event == "call:incoming":
                    incoming[session] += count
            if all(cause == "" for _, cause, _ in transitions):
                assert not ways, f"{id_} was never created, but {sorted(ways)} were notified of it"
                continue
            takers = {at for _, _, at in transitions if at}
            assert len(takers) <= 1, f"{id_} is accepted by {sorted(takers)}"
            callees = {session for session in accepted if user_of(session) == call.callee}
            assert callees <= takers, f"{id_} was accepted by {takers}, {callees} were told that they did"
            bound = {call.caller_at.session, *takers}
            if takers and not (disturbed and call.state is State.ENDED):
                for session in bound & {*self.there(call.caller), *self.there(call.callee)}:
                    assert session in accepted, f"{id_} was accepted, {session} was not told"
            for session, ends in ways.items():
                assert len(ends) <= 1 or incoming[session] > 1, (
                    f"{session} was told two ends of {id_}: {ends}"
                )
                if times[session] > 1 and not disturbed:
                    assert incoming[session] > 1, f"{session} was told the end of {id_} twice"
                over = call.state is State.ENDED or (call.state is State.ACCEPTED and session not in accepted)
                if disturbed and call.state is State.ENDED and takers and session not in bound:
                    continue  # an acceptance that nobody was told of before the call was ended: ADR 32
                if over and session in self.there(user_of(session)):
                    assert ends, f"{session} was not told the end of {id_}"


class _Lock(asyncio.Lock):
    """Notes who takes it and who gives it back."""

    def __init__(self, touch: Callable[[], None]) -> None:
        super().__init__()
        self._touch = touch

    async def acquire(self) -> Any:
        self._touch()
        return await super().acquire()

    def release(self) -> None:
        self._touch()
        super().release()


class _Owner(CallOwner):
    """Forwards nothing, and notes its locks."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name, lambda _: name, None)  # type: ignore[arg-type]
        self._world = world
        self._name = name
        self._locks: dict[str, _Lock] = {}

    def lock(self, call: str) -> asyncio.Lock:
        if call not in self._locks:
            self._locks[call] = _Lock(lambda: self._world.touch(("lock", self._name, call), "w"))
        return self._locks[call]


class _Nowhere:
    """Takes whatever it is told."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


class _Answering:
    """Connections of clients that are all there, and have heard what they were told."""

    async def silent_since(self, _: Session) -> int | None:
        return None

    async def unheard(self, _: Session) -> bool:
        return False


async def _admit(_caller: str, _callee: str) -> Unanswered:
    """Admit every ring."""
    return NEVER_UNANSWERED


_ALL_MAY = PolicyClient(None, "off")  # type: ignore[arg-type]
_NONE = Entry(None, 0)


def _time_out(call: str) -> Actor:
    return Actor(f"deadline of {call}", 2, lambda world, at: at.instance.call_service.time_out(call))


_RECONCILE = Actor("last reconciliation", 2, lambda world, at: at.instance.reconciler.run_once())


class Maker:
    """Makes the same world again and again. ``changes``: what is wrong in the code."""

    def __init__(self, spec: Spec, changes: tuple[Change, ...] = ()) -> None:
        self._spec = spec
        self._code = load(lambda: self._code.now(), changes)
        self._code.reconciler.space["new_id"] = lambda: f"sweep {ACTOR.get()}"
        self._code.join_service.space["_mint"] = lambda: Minted(ACTOR.get(), "t")
        self._past: World | None = None

    def __call__(self) -> World:
        if self._past is None:
            self._past = World(self._spec, self._code, None)
            self._past.close()
        return World(self._spec, self._code, self._past)
