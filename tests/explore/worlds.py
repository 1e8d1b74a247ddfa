"""The worlds that are explored: two callers, one callee with two devices, one crash, one overtaken try, one deadline.

Each world has a few of these at once, beginning with nothing, with a call that rings or with one that is accepted.
"""

from services.callcore.state.model import State
from shared.contracts.calls import AcceptRequest, AttachedRequest, EndRequest, InitiateRequest, RejectRequest
from shared.contracts.presence import JoinsRequest, LeaveRequest
from tests.explore.world import Actor, Spec, Try, World, user_of


def initiate(name: str, session: str, to: str, instance: int) -> Actor:
    """``session`` calls ``to``. The call is named ``name``."""

    def begin(_: World, at: Try):  # type: ignore[no-untyped-def]
        return at.instance.calls.initiate_here(
            InitiateRequest(
                request_id=f"r-{name}",
                expires_at=at.expires_at,
                attempt=at.number,
                user=user_of(session),
                session=session,
                gateway="gw",
                call=name,
                to=to,
                call_type="audio",
            )
        )

    return Actor(name, instance, begin, kind="initiate", call=name, session=session, request=f"r-{name}")


def _by_client(name: str, kind: str, session: str, call: str, instance: int) -> Actor:
    request = {"accept": AcceptRequest, "end": EndRequest, "reject": RejectRequest}[kind]

    def begin(_: World, at: Try):  # type: ignore[no-untyped-def]
        return getattr(at.instance.calls, kind)(
            request(
                request_id=f"r-{name}",
                expires_at=at.expires_at,
                attempt=at.number,
                user=user_of(session),
                session=session,
                gateway="gw",
                call=call,
            )
        )

    def ready(world: World) -> bool:
        return any(world.heard(session, event, call) for event in ("call:incoming", "call:initiated"))

    reads = (("told", session),)
    what = "end" if kind == "reject" else kind
    return Actor(name, instance, begin, ready, reads, what, call, session, f"r-{name}")


def accept(name: str, session: str, call: str, instance: int) -> Actor:
    """``session`` accepts, as soon as it has received the call or later."""
    return _by_client(name, "accept", session, call, instance)


def reject(name: str, session: str, call: str, instance: int) -> Actor:
    """``session`` rejects."""
    return _by_client(name, "reject", session, call, instance)


def end(name: str, session: str, call: str, instance: int) -> Actor:
    """``session`` ends the call, as soon as it has received it or later."""
    return _by_client(name, "end", session, call, instance)


def deadline(call: str, instance: int) -> Actor:
    """The ring deadline of the call passes; any time after it was created."""

    def ready(world: World) -> bool:
        return any(state is State.RINGING for state, _, _ in world.transitions.get(call, ()))

    return Actor(
        f"deadline-{call}",
        instance,
        lambda _, at: at.instance.call_service.time_out(call),
        ready,
        (("calls", f"call.{call}"),),
        request=f"timeout {call}",
    )


def join(name: str, instance: int) -> Actor:
    """One more device of a user joins, and its gateway notifies call control if the user is reserved."""

    async def begin(_: World, at: Try) -> None:
        user = user_of(name)
        joined = await at.instance.joins.join(
            JoinsRequest(request_id=f"r-{name}", user=user, gateway="gw", socket=name, attempt=at.number)
        )
        if joined.busy:
            attached = AttachedRequest(
                request_id=f"r-{name}", user=user, session=joined.session, gateway="gw", attempt=at.number
            )
            await at.instance.ask("calls", "attached", attached)

    return Actor(name, instance, begin)


def leave(session: str, instance: int) -> Actor:
    """A device leaves on purpose."""

    def begin(_: World, at: Try):  # type: ignore[no-untyped-def]
        return at.instance.presence.leave(
            LeaveRequest(
                request_id=f"left-{session}",
                attempt=at.number,
                user=user_of(session),
                session=session,
                gateway="gw",
                socket=session,
                reason="hangup",
            )
        )

    return Actor(f"leave-{session}", instance, begin)


def gone(session: str) -> Actor:
    """A user's only session is gone, and presence dies before it notifies call control."""

    async def begin(world: World, _: Try) -> None:
        await world.sessions.unset(f"user.{user_of(session)}")

    return Actor(f"gone-{session}", 2, begin)


def blink(session: str) -> Actor:
    """A user's only session is gone, and there again."""

    async def begin(world: World, _: Try) -> None:
        key = f"user.{user_of(session)}"
        record = world.sessions.entries[key].value
        assert record is not None
        await world.sessions.unset(key)
        await world.sessions.set(key, record)

    return Actor(f"blink-{session}", 2, begin)


def reconcile(instance: int) -> Actor:
    """An instance reconciles."""
    return Actor(f"reconcile-{instance}", instance, lambda _, at: at.instance.reconciler.run_once())


_X, _Y = initiate("x", "a1", "bob", 0), initiate("y", "c1", "bob", 1)
_BACK = initiate("y", "b1", "ann", 1)
_RINGS = (initiate("x", "a1", "bob", 2),)
_TALKS = (*_RINGS, accept("was-accepted", "b1", "x", 2))
_ALONE = ("a1", "b1", "c1")


WORLDS = (
    # --- call set-up ---
    Spec("glare", (_X, _BACK)),
    Spec("glare, and the caller ends", (_X, _BACK, end("end", "a1", "x", 2)), sessions=_ALONE),
    Spec("two callers of one callee", (_X, _Y)),
    Spec("two callers of one callee, and it looks around", (_X, _Y, reconcile(2)), large=True),
    Spec(
        "two callers of one callee, and two devices accept",
        (_X, _Y, accept("b1-x", "b1", "x", 2), accept("b2-y", "b2", "y", 2)),
        large=True,
    ),
    Spec("a caller is called", (_X, initiate("y", "c1", "ann", 1))),
    Spec(
        "a caller is called by another, who is called",
        (_X, initiate("y", "b1", "cem", 1), initiate("z", "c1", "ann", 2)),
        large=True,
    ),
    Spec("the callee's device joins", (_X, join("b3", 1))),
    Spec("the callee comes", (_X, join("b3", 1)), sessions=("a1", "c1")),
    Spec("two devices join", (_X, join("b3", 1), join("b4", 2)), sessions=("a1", "b1"), large=True),
    Spec("the callee's device leaves", (_X, leave("b1", 1))),
    Spec("the callee leaves", (_X, leave("b1", 1)), sessions=_ALONE),
    Spec("the callee leaves and comes", (_X, leave("b1", 1), join("b3", 2)), sessions=_ALONE, large=True),
    Spec("the caller leaves", (_X, leave("a1", 1))),
    Spec("placed, and two devices accept", (_X, accept("b1", "b1", "x", 0), accept("b2", "b2", "x", 1))),
    Spec("placed, accepted and ended", (_X, accept("b1", "b1", "x", 1), end("end", "a1", "x", 2))),
    Spec("placed, accepted, due", (_X, accept("b1", "b1", "x", 1), deadline("x", 2))),
    # --- it rings ---
    Spec("two devices accept", (accept("b1", "b1", "x", 0), accept("b2", "b2", "x", 1)), _RINGS),
    Spec(
        "two devices accept, and the call is due",
        (accept("b1", "b1", "x", 0), accept("b2", "b2", "x", 1), deadline("x", 2)),
        _RINGS,
    ),
    Spec("accepted here, rejected there", (accept("b1", "b1", "x", 0), reject("b2", "b2", "x", 1)), _RINGS),
    Spec("accepted and cancelled", (accept("b1", "b1", "x", 0), end("end", "a1", "x", 1)), _RINGS),
    Spec(
        "accepted where it was placed, cancelled",
        (accept("b1", "b1", "x", 2), end("end", "a1", "x", 0)),
        _RINGS,
    ),
    Spec("accepted and due", (accept("b1", "b1", "x", 0), deadline("x", 1)), _RINGS),
    Spec("cancelled and due", (end("end", "a1", "x", 0), deadline("x", 1)), _RINGS),
    Spec(
        "accepted, cancelled and due, and it looks around",
        (accept("b1", "b1", "x", 0), end("end", "a1", "x", 1), deadline("x", 2), reconcile(2)),
        _RINGS,
        large=True,
    ),
    Spec("accepted by a device that leaves", (accept("b1", "b1", "x", 0), leave("b1", 1)), _RINGS),
    Spec("accepted as the caller leaves", (accept("b1", "b1", "x", 0), leave("a1", 1)), _RINGS),
    Spec("accepted as another device joins", (accept("b1", "b1", "x", 0), join("b3", 1)), _RINGS),
    Spec("cancelled as another device joins", (end("end", "a1", "x", 0), join("b3", 1)), _RINGS),
    Spec("both devices leave", (leave("b1", 0), leave("b2", 1)), _RINGS),
    Spec("cancelled and placed by another", (end("end", "a1", "x", 0), _Y), _RINGS),
    Spec(
        "cancelled and placed again by another, and it looks around",
        (end("end", "a1", "x", 0), _Y, reconcile(2)),
        _RINGS,
        large=True,
    ),
    # --- it is accepted ---
    Spec("both hang up", (end("end-a", "a1", "x", 0), end("end-b", "b1", "x", 1)), _TALKS),
    Spec("one hangs up, one leaves", (end("end-a", "a1", "x", 0), leave("b1", 1)), _TALKS),
    Spec("both leave", (leave("a1", 0), leave("b1", 1)), _TALKS),
    Spec("hung up as it looks around", (end("end-a", "a1", "x", 0), reconcile(1)), _TALKS),
    Spec("one leaves as it looks around", (leave("b1", 0), reconcile(1)), _TALKS),
    Spec("hung up and placed by another", (end("end-a", "a1", "x", 0), _Y), _TALKS),
    Spec(
        "hung up and placed by both",
        (end("end-a", "a1", "x", 2), _Y, initiate("z", "b1", "ann", 0)),
        _TALKS,
        large=True,
    ),
    # --- a try is overtaken by the next ---
    Spec("overtaken", (_X,), overtaken="x"),
    Spec("overtaken by another caller", (_X, _Y), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken in a glare", (_X, _BACK), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken as the callee is gone", (_X, gone("b1")), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken as the caller is gone", (_X, gone("a1")), overtaken="x", sessions=_ALONE),
    Spec("overtaken as the callee blinks", (_X, blink("b1")), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken as the callee leaves", (_X, leave("b1", 1)), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken as the caller leaves", (_X, leave("a1", 1)), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken as it looks around", (_X, reconcile(2)), overtaken="x", sessions=_ALONE, large=True),
    Spec("overtaken and accepted", (_X, accept("b1", "b1", "x", 2)), overtaken="x", sessions=_ALONE),
    Spec(
        "overtaken, accepted and ended",
        (_X, accept("b1", "b1", "x", 2), end("end", "a1", "x", 2)),
        overtaken="x",
        sessions=_ALONE,
        large=True,
    ),
    Spec(
        "an acceptance is overtaken",
        (accept("b1", "b1", "x", 0), accept("b2", "b2", "x", 1)),
        _RINGS,
        overtaken="b1",
    ),
    Spec(
        "an acceptance is overtaken by an end",
        (accept("b1", "b1", "x", 0), end("end", "a1", "x", 2)),
        _RINGS,
        overtaken="b1",
    ),
    Spec("an end is overtaken", (end("end-a", "a1", "x", 0), _Y), _TALKS, overtaken="end-a", large=True),
    # --- an instance dies ---
    Spec("death while placing", (_X,), crash=(0,)),
    Spec("death while placing, and another calls", (_X, _Y), crash=(0,)),
    Spec("death in a glare", (_X, _BACK), crash=(0,), large=True),
    Spec("death while placing, and the callee leaves", (_X, leave("b1", 1)), crash=(0,), sessions=_ALONE),
    Spec("death while placing, and it looks around", (_X, reconcile(2)), crash=(0,)),
    Spec(
        "death while accepting", (accept("b1", "b1", "x", 0), accept("b2", "b2", "x", 1)), _RINGS, crash=(0,)
    ),
    Spec(
        "death while rejecting", (reject("b1", "b1", "x", 0), accept("b2", "b2", "x", 1)), _RINGS, crash=(0,)
    ),
    Spec("death while ending", (end("end-a", "a1", "x", 0), end("end-b", "b1", "x", 1)), _TALKS, crash=(0,)),
    Spec("death while ending, and another calls", (end("end-a", "a1", "x", 0), _Y), _TALKS, crash=(0,)),
    Spec(
        "death while one leaves", (leave("b1", 0), _Y), _TALKS, crash=(0,), sessions=("a1", "b1", "b2", "c1")
    ),
    Spec("death while one joins", (_X, join("b3", 1)), crash=(1,)),
    Spec("death as it is due", (deadline("x", 0), accept("b1", "b1", "x", 1)), _RINGS, crash=(0,)),
    Spec("death as it looks around", (end("end-a", "a1", "x", 1), reconcile(0)), _TALKS, crash=(0,)),
    # --- several of these at once ---
    Spec(
        "two callers, two devices, a death",
        (_X, _Y, accept("b1-x", "b1", "x", 2), accept("b2-y", "b2", "y", 2)),
        crash=(0,),
        large=True,
    ),
    Spec("two callers, a death, overtaken", (_X, _Y), crash=(1,), overtaken="x", sessions=_ALONE, large=True),
    Spec(
        "two callers, a death, overtaken, due, and two devices accept",
        (_X, _Y, accept("b1-x", "b1", "x", 2), accept("b2-x", "b2", "x", 2), deadline("x", 2)),
        crash=(1,),
        overtaken="x",
        large=True,
    ),
    Spec(
        "a whole call with a death",
        (_X, join("b3", 1), accept("b1", "b1", "x", 1), end("end", "a1", "x", 2), deadline("x", 2)),
        crash=(1,),
        sessions=_ALONE,
        large=True,
    ),
)
