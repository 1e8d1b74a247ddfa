"""What each rule stores and whom it tells what, in full: the record's changes, and every message."""

from typing import Any

import pytest

from services.callcore.state import actions, machine
from services.callcore.state.machine import replay, role_of, step
from services.callcore.state.model import Address, Call, CallInput, InputKind, Outcome, Role
from shared.errors import CallNotFound, InvalidState, ReceiverNotFound, SignallingError
from tests.unit.callcore.calls import ALICE, ALICE_TAB, BOB, BOB_TAB, EVE, NOW, accepted, by, ended, ringing

Told = list[tuple[str, str, dict[str, Any]]]


def told(outcome: Outcome) -> Told:
    """(session, event, payload) of every message, in order."""
    return [
        (send.to.session, str(send.event), send.payload.model_dump(by_alias=True, exclude_none=True))
        for send in outcome.sends
    ]


def changes(before: Call, outcome: Outcome) -> dict[str, Any]:
    """What has changed in the record."""
    old, new = dict(before), dict(outcome.call)
    return {key: new[key] for key in new if new[key] != old[key]}


def over(by_: str, reason: str) -> dict[str, Any]:
    """The changes of an end."""
    return {"state": "ended", "ended_at": NOW, "ended_by": by_, "reason": reason, "caused_by": "r1"}


def end(by_: str, reason: str) -> dict[str, Any]:
    """The payload of ``call:ended``."""
    return {"callId": "c1", "by": by_, "reason": reason}


INCOMING = {
    "from": "alice", "callType": "video", "callId": "c1", "metadata": {"lesson": 7}, "expiresAt": NOW + 44_000,
}  # fmt: skip
REJECTED_ELSEWHERE = ("bob-tab", "call:ended", end("bob", "rejected_elsewhere"))

CASES: dict[str, tuple[Call, CallInput, dict[str, Any], Told]] = {
    "accept": (
        ringing(),
        by("bob", BOB, InputKind.ACCEPT),
        {"state": "accepted", "callee_at": BOB, "accepted_at": NOW, "caused_by": "r1"},
        [
            ("alice-phone", "call:accepted", {"callId": "c1", "by": "bob"}),
            ("bob-phone", "call:accepted", {"callId": "c1", "by": "bob"}),
            ("bob-tab", "call:ended", end("bob", "answered_elsewhere")),
        ],
    ),
    "reject": (
        ringing(),
        by("bob", BOB, InputKind.REJECT),
        over("bob", "rejected"),
        [
            ("alice-phone", "call:rejected", {"callId": "c1", "by": "bob"}),
            ("bob-phone", "call:rejected", {"callId": "c1", "by": "bob"}),
            REJECTED_ELSEWHERE,
        ],
    ),
    "reject with a reason": (
        ringing(BOB),
        by("bob", BOB, InputKind.REJECT, "busy"),
        over("bob", "busy"),
        [
            ("alice-phone", "call:rejected", {"callId": "c1", "by": "bob", "reason": "busy"}),
            ("bob-phone", "call:rejected", {"callId": "c1", "by": "bob", "reason": "busy"}),
        ],
    ),
    "cancel": (
        ringing(),
        by("alice", ALICE, InputKind.END),
        over("alice", "cancelled"),
        [(s, "call:ended", end("alice", "cancelled")) for s in ("alice-phone", "bob-phone", "bob-tab")],
    ),
    "cancel from another device": (
        ringing(BOB),
        by("alice", ALICE_TAB, InputKind.END, "late"),
        over("alice", "late"),
        [(s, "call:ended", end("alice", "late")) for s in ("alice-phone", "bob-phone", "alice-tab")],
    ),
    "refuse by end": (
        ringing(),
        by("bob", BOB, InputKind.END),
        over("bob", "rejected"),
        [
            ("alice-phone", "call:ended", end("bob", "rejected")),
            ("bob-phone", "call:ended", end("bob", "rejected")),
            REJECTED_ELSEWHERE,
        ],
    ),
    "hang up": (
        accepted(),
        by("bob", BOB, InputKind.END),
        over("bob", "hangup"),
        [(s, "call:ended", end("bob", "hangup")) for s in ("alice-phone", "bob-phone")],
    ),
    "hang up from another device": (
        accepted(),
        by("bob", BOB_TAB, InputKind.END, "ice_failed"),
        over("bob", "ice_failed"),
        [(s, "call:ended", end("bob", "ice_failed")) for s in ("alice-phone", "bob-phone", "bob-tab")],
    ),
    "time out": (
        ringing(),
        CallInput(InputKind.TIMEOUT, "r1"),
        over("server", "timeout"),
        [(s, "call:ended", end("server", "timeout")) for s in ("alice-phone", "bob-phone", "bob-tab")],
    ),
    "the caller's connection is lost": (
        ringing(),
        by("alice", ALICE, InputKind.LEFT),
        over("alice", "connection_lost"),
        [(s, "call:ended", end("alice", "connection_lost")) for s in ("bob-phone", "bob-tab")],
    ),
    "the caller goes": (
        ringing(BOB),
        by("alice", ALICE, InputKind.LEFT, "hangup"),
        over("alice", "cancelled"),
        [("bob-phone", "call:ended", end("alice", "cancelled"))],
    ),
    "one ringing device goes": (
        ringing(),
        by("bob", BOB, InputKind.LEFT),
        {"ringing": (BOB_TAB,), "moved_by": "r1"},
        [],
    ),
    "the last ringing device goes": (
        ringing(BOB),
        by("bob", BOB, InputKind.LEFT, "hangup"),
        over("bob", "connection_lost"),
        [("alice-phone", "call:ended", end("bob", "connection_lost"))],
    ),
    "a device that does not ring goes": (ringing(BOB), by("bob", BOB_TAB, InputKind.LEFT), {}, []),
    "a party goes": (
        accepted(),
        by("alice", ALICE, InputKind.LEFT),
        over("alice", "connection_lost"),
        [("bob-phone", "call:ended", end("alice", "connection_lost"))],
    ),
    "one more device rings": (
        ringing(BOB),
        by("bob", BOB_TAB, InputKind.ATTACHED),
        {"ringing": (BOB, BOB_TAB), "moved_by": "r1", "rung_by": ("r1",)},
        [("bob-tab", "call:incoming", INCOMING)],
    ),
    "a device that rang rings again": (
        ringing(),
        by("bob", BOB, InputKind.ATTACHED),
        {"ringing": (BOB_TAB, BOB), "moved_by": "r1"},
        [("bob-phone", "call:incoming", INCOMING)],
    ),
    "the calling session moves": (
        accepted(),
        by("alice", Address(session="alice-phone", gateway="gw9"), InputKind.ATTACHED),
        {"caller_at": Address(session="alice-phone", gateway="gw9"), "moved_by": "r1"},
        [],
    ),
    "the accepting session moves": (
        accepted(),
        by("bob", Address(session="bob-phone", gateway="gw9"), InputKind.ATTACHED),
        {"callee_at": Address(session="bob-phone", gateway="gw9"), "moved_by": "r1"},
        [],
    ),
    "the calling session is where it was": (accepted(), by("alice", ALICE, InputKind.ATTACHED), {}, []),
    "the accepting session is where it was": (accepted(), by("bob", BOB, InputKind.ATTACHED), {}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_rule_in_full(name: str) -> None:
    call, call_input, changed, messages = CASES[name]
    outcome = step(call, call_input, NOW)
    assert changes(call, outcome) == changed
    assert told(outcome) == messages
    if not changed:
        assert outcome.call is call, "nothing is to be stored"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_a_repeated_request_sends_the_same(name: str) -> None:
    call, call_input, _, messages = CASES[name]
    first = step(call, call_input, NOW)
    repeated = replay(first.call, call_input)
    assert repeated.call is first.call
    sent = told(repeated)
    assert sent == messages or name == "the last ringing device goes"  # which of its devices rang is gone
    assert repeated.relay_to == first.relay_to


@pytest.mark.parametrize("knows_by", ["where it was", "elsewhere"])
def test_a_ringing_device_that_resumed_gets_no_second_incoming(knows_by: str) -> None:
    at = BOB if knows_by == "where it was" else Address(session="bob-phone", gateway="gw9")
    call, event = ringing(), CallInput(InputKind.ATTACHED, "r1", "bob", at, resumed=True)
    outcome = step(call, event, NOW)
    assert not outcome.sends
    if at is BOB:
        assert outcome.call is call
    else:
        assert changes(call, outcome) == {"ringing": (BOB_TAB, at), "moved_by": "r1"}


def test_a_device_that_resumed_but_did_not_ring_gets_incoming() -> None:
    event = CallInput(InputKind.ATTACHED, "r1", "bob", BOB_TAB, resumed=True)
    assert told(step(ringing(BOB), event, NOW)) == [("bob-tab", "call:incoming", INCOMING)]


def test_a_birth_in_full() -> None:
    initiated = {"callId": "c1", "to": "bob", "expiresAt": NOW + 44_000}
    assert told(actions.place(ringing())) == [
        ("alice-phone", "call:initiated", initiated),
        ("bob-phone", "call:incoming", INCOMING),
        ("bob-tab", "call:incoming", INCOMING),
    ]


def test_a_user_who_accepts_by_calling_back_gets_initiated() -> None:
    event = by("bob", BOB, InputKind.ACCEPT)
    outcome = step(ringing(BOB), event, NOW)
    as_initiated = actions.as_initiated(outcome, event)
    first, *rest = told(as_initiated)
    assert first == (
        "bob-phone",
        "call:initiated",
        {"callId": "c1", "to": "alice", "expiresAt": NOW + 44_000},
    )
    assert rest == told(outcome)
    assert (
        (as_initiated.call, as_initiated.relay_to)
        == (outcome.call, outcome.relay_to)
        == (outcome.call, (ALICE,))
    )


@pytest.mark.parametrize("kind", [InputKind.OFFER, InputKind.ANSWER, InputKind.CANDIDATE])
def test_where_relays_go(kind: InputKind) -> None:
    assert step(accepted(), by("alice", ALICE, kind), NOW).relay_to == (BOB,)
    assert step(accepted(), by("bob", BOB, kind), NOW).relay_to == (ALICE,)
    if kind is not InputKind.ANSWER:
        assert step(ringing(), by("alice", ALICE, kind), NOW).relay_to == (BOB, BOB_TAB)
        assert step(ringing(), by("bob", BOB_TAB, kind), NOW).relay_to == (ALICE,)
    else:
        outcome = step(ringing(), by("bob", BOB_TAB, kind), NOW)
        assert (outcome.relay_to, outcome.call.callee_at) == ((ALICE,), BOB_TAB), "it accepts"


NOT_CALLER = "Only the callee can do that; the caller ends a call with call:end"
NOT_RINGING = "The call is not ringing any more: it was accepted"
ELSEWHERE = "The call was accepted on another device"


@pytest.mark.parametrize(
    ("call", "event", "error", "message"),
    [
        (ringing(), by("alice", ALICE, InputKind.ACCEPT), InvalidState, NOT_CALLER),
        (ringing(), by("alice", ALICE, InputKind.REJECT), InvalidState, NOT_CALLER),
        (ringing(), by("alice", ALICE, InputKind.ANSWER), InvalidState, NOT_CALLER),
        (accepted(), by("bob", BOB, InputKind.ACCEPT), InvalidState, NOT_RINGING),
        (accepted(), by("bob", BOB, InputKind.REJECT), InvalidState, NOT_RINGING),
        (accepted(), by("bob", BOB_TAB, InputKind.ACCEPT), InvalidState, ELSEWHERE),
        (accepted(), by("bob", BOB_TAB, InputKind.OFFER), ReceiverNotFound, "Receiver not found"),
        (ended(), by("bob", BOB, InputKind.ACCEPT), CallNotFound, "Call not found or expired"),
        (ended(), by("alice", ALICE, InputKind.REJECT), CallNotFound, "Call not found or expired"),
        (ended(), by("bob", BOB_TAB, InputKind.END), CallNotFound, "Call not found or expired"),
        (ended(), by("bob", BOB, InputKind.OFFER), ReceiverNotFound, "Receiver not found"),
        (ended(), by("bob", BOB, InputKind.ANSWER), ReceiverNotFound, "Receiver not found"),
        (ended(), by("bob", BOB, InputKind.CANDIDATE), ReceiverNotFound, "Receiver not found"),
        (ringing(), by("eve", EVE, InputKind.ACCEPT), CallNotFound, "Call not found or expired"),
    ],
)
def test_a_refusal_in_full(call: Call, event: CallInput, error: type[SignallingError], message: str) -> None:
    with pytest.raises(error) as refused:
        step(call, event, NOW)
    assert (refused.value.message, refused.value.call_id) == (message, "c1")


@pytest.mark.parametrize("kind", [InputKind.ATTACHED, InputKind.LEFT])
@pytest.mark.parametrize(
    ("user", "at"), [("alice", ALICE), ("alice", ALICE_TAB), ("bob", BOB), ("bob", BOB_TAB)]
)
def test_an_input_after_the_end_changes_nothing(user: str, at: Address, kind: InputKind) -> None:
    call = ended()
    outcome = step(call, by(user, at, kind), NOW)
    assert (outcome.call is call, outcome.sends, outcome.relay_to) == (True, (), ())


@pytest.mark.parametrize("call", [accepted(), ended()])
def test_a_deadline_after_the_answer_does_nothing(call: Call) -> None:
    assert step(call, CallInput(InputKind.TIMEOUT, "r1"), NOW).call is call


def test_the_role_of_an_author() -> None:
    roles = [
        (accepted(), by("alice", ALICE, InputKind.END), Role.CALLER),
        (accepted(), by("alice", ALICE_TAB, InputKind.END), Role.CALLER_DEVICE),
        (accepted(), by("bob", BOB, InputKind.END), Role.CALLEE),
        (accepted(), by("bob", BOB_TAB, InputKind.END), Role.CALLEE_DEVICE),
        (ringing(), by("bob", BOB_TAB, InputKind.END), Role.CALLEE),
        (accepted(), CallInput(InputKind.TIMEOUT, "r1"), Role.SERVER),
        (accepted(), CallInput(InputKind.TIMEOUT, "r1", "alice"), Role.SERVER),
        (accepted(), CallInput(InputKind.TIMEOUT, "r1", None, ALICE), Role.SERVER),
    ]
    assert [role_of(call, event) for call, event, _ in roles] == [role for *_, role in roles]


def test_the_peer_is_the_other_one() -> None:
    assert (ringing().peer_of("alice"), ringing().peer_of("bob")) == ("bob", "alice")


def test_the_ended_state_has_a_row_for_each_role() -> None:
    row = machine.TABLE[ended().state]
    assert set(row) == set(Role)
    assert {cell.note for cells in row.values() for cell in cells.values()} == {"the call has ended"}
    assert {cell.next for cells in row.values() for cell in cells.values()} == {ended().state}
