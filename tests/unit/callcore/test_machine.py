"""Every cell of the table, one by one."""

import pytest

from services.callcore.state import machine
from services.callcore.state.actions import place
from services.callcore.state.model import CallInput, InputKind, Outcome, Role, State
from shared.errors import CallNotFound, InvalidState, ReceiverNotFound
from tests.unit.callcore.calls import ALICE, ALICE_TAB, BOB, BOB_TAB, EVE, NOW, accepted, by, ended, ringing

CALLS = {State.RINGING: ringing, State.ACCEPTED: accepted, State.ENDED: ended}
PEOPLE = {
    Role.CALLER: ("alice", ALICE),
    Role.CALLER_DEVICE: ("alice", ALICE_TAB),
    Role.CALLEE: ("bob", BOB),
    Role.CALLEE_DEVICE: ("bob", BOB_TAB),
}
INVALID, UNHEARD, GONE = InvalidState, ReceiverNotFound, CallNotFound
R, A, E = State.RINGING, State.ACCEPTED, State.ENDED

# (state, role, kind) → the refusal, or (state afterwards, reason of the end, who is told what, where relays go)
Told = list[tuple[str, str]]
CELLS: dict[tuple[State, Role, InputKind], object] = {
    (R, Role.CALLER, InputKind.ACCEPT): INVALID,
    (R, Role.CALLER, InputKind.REJECT): INVALID,
    (R, Role.CALLER, InputKind.END): (
        E,
        "cancelled",
        [("alice-phone", "call:ended"), ("bob-phone", "call:ended"), ("bob-tab", "call:ended")],
        [],
    ),
    (R, Role.CALLER, InputKind.OFFER): (R, None, [], ["bob-phone", "bob-tab"]),
    (R, Role.CALLER, InputKind.ANSWER): INVALID,
    (R, Role.CALLER, InputKind.CANDIDATE): (R, None, [], ["bob-phone", "bob-tab"]),
    (R, Role.CALLER, InputKind.ATTACHED): (R, None, [("alice-phone", "call:initiated")], []),
    (R, Role.CALLER, InputKind.LEFT): (
        E,
        "connection_lost",
        [("bob-phone", "call:ended"), ("bob-tab", "call:ended")],
        [],
    ),
    (R, Role.CALLER_DEVICE, InputKind.ACCEPT): INVALID,
    (R, Role.CALLER_DEVICE, InputKind.REJECT): INVALID,
    (R, Role.CALLER_DEVICE, InputKind.END): (
        E,
        "cancelled",
        [
            ("alice-phone", "call:ended"),
            ("bob-phone", "call:ended"),
            ("bob-tab", "call:ended"),
            ("alice-tab", "call:ended"),
        ],
        [],
    ),
    (R, Role.CALLER_DEVICE, InputKind.OFFER): UNHEARD,
    (R, Role.CALLER_DEVICE, InputKind.ANSWER): UNHEARD,
    (R, Role.CALLER_DEVICE, InputKind.CANDIDATE): UNHEARD,
    (R, Role.CALLER_DEVICE, InputKind.ATTACHED): (R, None, [], []),
    (R, Role.CALLER_DEVICE, InputKind.LEFT): (R, None, [], []),
    (R, Role.CALLEE, InputKind.ACCEPT): (
        A,
        None,
        [("alice-phone", "call:accepted"), ("bob-phone", "call:accepted"), ("bob-tab", "call:ended")],
        ["alice-phone"],
    ),
    (R, Role.CALLEE, InputKind.REJECT): (
        E,
        "rejected",
        [("alice-phone", "call:rejected"), ("bob-phone", "call:rejected"), ("bob-tab", "call:ended")],
        [],
    ),
    (R, Role.CALLEE, InputKind.END): (
        E,
        "rejected",
        [("alice-phone", "call:ended"), ("bob-phone", "call:ended"), ("bob-tab", "call:ended")],
        [],
    ),
    (R, Role.CALLEE, InputKind.OFFER): (R, None, [], ["alice-phone"]),
    (R, Role.CALLEE, InputKind.ANSWER): (
        A,
        None,
        [("alice-phone", "call:accepted"), ("bob-phone", "call:accepted"), ("bob-tab", "call:ended")],
        ["alice-phone"],
    ),
    (R, Role.CALLEE, InputKind.CANDIDATE): (R, None, [], ["alice-phone"]),
    (R, Role.CALLEE, InputKind.ATTACHED): (R, None, [("bob-phone", "call:incoming")], []),
    (R, Role.CALLEE, InputKind.LEFT): (R, None, [], []),
    (R, Role.SERVER, InputKind.TIMEOUT): (
        E,
        "timeout",
        [("alice-phone", "call:ended"), ("bob-phone", "call:ended"), ("bob-tab", "call:ended")],
        [],
    ),
    (A, Role.SERVER, InputKind.TIMEOUT): (A, None, [], []),
    (E, Role.SERVER, InputKind.TIMEOUT): (E, "hangup", [], []),
}
for _role, _peer, _own in (
    (Role.CALLER, "bob-phone", "alice-phone"),
    (Role.CALLEE, "alice-phone", "bob-phone"),
):
    CELLS |= {
        (A, _role, InputKind.ACCEPT): INVALID,
        (A, _role, InputKind.REJECT): INVALID,
        (A, _role, InputKind.END): (
            E,
            "hangup",
            [("alice-phone", "call:ended"), ("bob-phone", "call:ended")],
            [],
        ),
        (A, _role, InputKind.OFFER): (A, None, [], [_peer]),
        (A, _role, InputKind.ANSWER): (A, None, [], [_peer]),
        (A, _role, InputKind.CANDIDATE): (A, None, [], [_peer]),
        (A, _role, InputKind.ATTACHED): (A, None, [], []),
        (A, _role, InputKind.LEFT): (E, "connection_lost", [(_peer, "call:ended")], []),
    }
for _role, _own in ((Role.CALLER_DEVICE, "alice-tab"), (Role.CALLEE_DEVICE, "bob-tab")):
    CELLS |= {
        (A, _role, InputKind.ACCEPT): INVALID,
        (A, _role, InputKind.REJECT): INVALID,
        (A, _role, InputKind.END): (
            E,
            "hangup",
            [("alice-phone", "call:ended"), ("bob-phone", "call:ended"), (_own, "call:ended")],
            [],
        ),
        (A, _role, InputKind.OFFER): UNHEARD,
        (A, _role, InputKind.ANSWER): UNHEARD,
        (A, _role, InputKind.CANDIDATE): UNHEARD,
        (A, _role, InputKind.ATTACHED): (A, None, [], []),
        (A, _role, InputKind.LEFT): (A, None, [], []),
    }
for _role in (Role.CALLER, Role.CALLER_DEVICE, Role.CALLEE, Role.CALLEE_DEVICE):
    CELLS |= {
        (E, _role, InputKind.ACCEPT): GONE,
        (E, _role, InputKind.REJECT): GONE,
        (E, _role, InputKind.END): GONE,
        (E, _role, InputKind.OFFER): UNHEARD,
        (E, _role, InputKind.ANSWER): UNHEARD,
        (E, _role, InputKind.CANDIDATE): UNHEARD,
        (E, _role, InputKind.ATTACHED): (E, "hangup", [], []),
        (E, _role, InputKind.LEFT): (E, "hangup", [], []),
    }


def call_input(role: Role, kind: InputKind) -> CallInput:
    if role is Role.SERVER:
        return CallInput(kind, "r1")
    user, at = PEOPLE[role]
    return by(user, at, kind)


def told(outcome: Outcome) -> Told:
    return [(send.to.session, send.event.value) for send in outcome.sends]


def test_the_table_and_this_test_have_the_same_cells() -> None:
    table = {
        (state, role, kind)
        for state, roles in machine.TABLE.items()
        for role, kinds in roles.items()
        for kind in kinds
    }
    assert table == set(CELLS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c[0].value}-{c[1].value}-{c[2].value}")
def test_cell(cell: tuple[State, Role, InputKind]) -> None:
    state, role, kind = cell
    call, expected = CALLS[state](), CELLS[cell]
    event = call_input(role, kind)
    assert machine.role_of(call, event) is role
    if isinstance(expected, type):
        with pytest.raises(expected):
            machine.step(call, event, NOW)
        return
    outcome = machine.step(call, event, NOW)
    relay_to = [at.session for at in outcome.relay_to]
    assert (outcome.call.state, outcome.call.reason, told(outcome), relay_to) == expected
    assert machine.TABLE[state][role][kind].next in (outcome.call.state, State.ENDED)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", [kind for kind in InputKind if kind is not InputKind.TIMEOUT])
def test_a_stranger_finds_no_call(state: State, kind: InputKind) -> None:
    with pytest.raises(CallNotFound):
        machine.step(CALLS[state](), by("eve", EVE, kind), NOW)


def test_a_new_call_rings_every_device() -> None:
    outcome = place(ringing())
    assert told(outcome) == [
        ("alice-phone", "call:initiated"),
        ("bob-phone", "call:incoming"),
        ("bob-tab", "call:incoming"),
    ]
    assert outcome.sends[1].payload.model_dump(by_alias=True) == {
        "from": "alice",
        "callType": "video",
        "callId": "c1",
        "metadata": {"lesson": 7},
        "expiresAt": NOW + 44_000,
    }


@pytest.mark.parametrize(
    ("call", "event", "reason"),
    [
        (ringing(), by("alice", ALICE, InputKind.END, "ice_failed"), "ice_failed"),
        (ringing(), by("alice", ALICE, InputKind.LEFT, "hangup"), "cancelled"),
        (ringing(), by("alice", ALICE, InputKind.LEFT, "connection_lost"), "connection_lost"),
        (ringing(), by("bob", BOB, InputKind.REJECT, "busy"), "busy"),
        (ringing(BOB), by("bob", BOB, InputKind.LEFT, "hangup"), "connection_lost"),
        (accepted(), by("bob", BOB, InputKind.END, "media_failed"), "media_failed"),
        (accepted(), by("bob", BOB, InputKind.LEFT, "hangup"), "hangup"),
    ],
)
def test_reasons(call, event, reason) -> None:  # type: ignore[no-untyped-def]
    outcome = machine.step(call, event, NOW)
    assert (outcome.call.state, outcome.call.reason, outcome.call.ended_at) == (State.ENDED, reason, NOW)


def test_other_devices_get_answered_elsewhere() -> None:
    outcome = machine.step(ringing(), by("bob", BOB_TAB, InputKind.ACCEPT), NOW)
    assert outcome.call.callee_at == BOB_TAB
    last = outcome.sends[-1]
    assert last.to == BOB
    assert last.payload.model_dump() == {"call_id": "c1", "by": "bob", "reason": "answered_elsewhere"}


def test_a_device_that_joins_rings_and_one_that_moved_rings_where_it_is_now() -> None:
    late = BOB_TAB.model_copy(update={"gateway": "gw9"})
    rung = machine.step(ringing(BOB), by("bob", late, InputKind.ATTACHED), NOW).call
    assert rung.ringing == (BOB, late)
    moved = machine.step(
        rung, by("bob", BOB.model_copy(update={"gateway": "gw9"}), InputKind.ATTACHED), NOW
    ).call
    assert [at.gateway for at in moved.ringing] == ["gw9", "gw9"]


def test_a_caller_that_resumes_gets_no_second_initiated() -> None:
    call = ringing()
    moved = ALICE.model_copy(update={"gateway": "gw9"})
    for at, changes in ((ALICE, False), (moved, True)):
        outcome = machine.step(call, CallInput(InputKind.ATTACHED, "x", "alice", at, resumed=True), NOW)
        assert (outcome.sends, outcome.call.caller_at, outcome.call is not call) == ((), at, changes)


def test_the_call_as_each_session_sees_it() -> None:
    ring, talk = ringing(BOB), accepted()
    for call, at, expected in (
        (ring, ALICE, ("bob", "ringing", True)), (ring, BOB, ("alice", "ringing", False)),
        (talk, ALICE, ("bob", "accepted", True)), (talk, BOB, ("alice", "accepted", True)),
    ):  # fmt: skip
        held = call.for_session(at.session)
        assert held is not None and (held.peer, held.state, held.party) == expected
    assert talk.for_session(BOB_TAB.session) is None and ring.for_session(EVE.session) is None
    over = machine.step(talk, by("bob", BOB, InputKind.END), NOW).call
    assert over.for_session(BOB.session) is None


@pytest.mark.parametrize(("user", "at", "field"), [("alice", ALICE, "caller_at"), ("bob", BOB, "callee_at")])
def test_a_bound_session_that_moves_takes_the_call_along(user, at, field) -> None:  # type: ignore[no-untyped-def]
    there = at.model_copy(update={"gateway": "gw9"})
    assert getattr(machine.step(accepted(), by(user, there, InputKind.ATTACHED), NOW).call, field) == there


@pytest.mark.parametrize(
    ("call", "event"),
    [
        (ringing(), by("bob", BOB, InputKind.ACCEPT)),
        (ringing(), by("bob", BOB, InputKind.REJECT, "busy")),
        (ringing(), by("bob", BOB, InputKind.END)),
        (ringing(), by("alice", ALICE, InputKind.END)),
        (ringing(), CallInput(InputKind.TIMEOUT, "t")),
        (ringing(), by("bob", EVE, InputKind.ATTACHED)),
        (ringing(), by("alice", ALICE, InputKind.ATTACHED)),
        (ringing(BOB), by("bob", BOB, InputKind.LEFT, "connection_lost")),
        (accepted(), by("alice", ALICE, InputKind.END)),
        (accepted(), by("bob", BOB, InputKind.LEFT, "hangup")),
    ],
)
def test_a_replay_sends_the_same_again(call, event) -> None:  # type: ignore[no-untyped-def]
    once = machine.step(call, event, NOW)
    twice = machine.replay(once.call, event)
    assert twice.call is once.call
    assert twice.sends == once.sends
