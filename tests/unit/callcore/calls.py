"""Calls in every state, and the people around them, for the tests of the machine."""

from services.callcore.state.model import Address, Call, CallInput, InputKind, State

NOW = 1_000_000

ALICE = Address(session="alice-phone", gateway="gw1")
ALICE_TAB = Address(session="alice-tab", gateway="gw1")
BOB = Address(session="bob-phone", gateway="gw2")
BOB_TAB = Address(session="bob-tab", gateway="gw2")
EVE = Address(session="eve-phone", gateway="gw1")


def ringing(*at: Address) -> Call:
    """alice calls bob, who has ``at`` (his phone and his tab by default)."""
    return Call(
        call="c1",
        state=State.RINGING,
        caller="alice",
        callee="bob",
        caller_at=ALICE,
        ringing=at or (BOB, BOB_TAB),
        call_type="video",
        metadata={"lesson": 7},
        created_at=NOW - 1000,
        expires_at=NOW + 44_000,
        caused_by="r0",
        holds=(1, 2),
    )


def accepted() -> Call:
    """bob accepted on his phone."""
    return ringing().model_copy(update={"state": State.ACCEPTED, "callee_at": BOB, "accepted_at": NOW - 500})


def ended() -> Call:
    """It is over."""
    return accepted().model_copy(
        update={"state": State.ENDED, "ended_at": NOW, "ended_by": "alice", "reason": "hangup"}
    )


def by(user: str, at: Address, kind: InputKind, reason: str | None = None, cause: str = "r1") -> CallInput:
    """What ``user`` does at ``at``."""
    return CallInput(kind, cause, user, at, reason)
