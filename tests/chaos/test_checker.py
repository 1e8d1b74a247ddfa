"""The checker and the plan: a good history passes, and each bad one is rejected for what is wrong in it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.checker import RELAY, check
from tests.chaos.history import Record, load, save
from tests.chaos.plan import SERVICES, plan


def _heard(at: float, user: str, event: str, **more: object) -> Record:
    return Record(at, user, "heard", event=event, call="x", **more)  # type: ignore[arg-type]


def _relay(at: float, n: int) -> list[Record]:
    """One relay from ann to bob, acknowledged."""
    return [
        Record(at, "ann", "asked", event=RELAY, call="x", n=n),
        _heard(at + 0.01, "bob", RELAY, n=n, seq=int(at * 1000), session="sb"),
        Record(at + 0.02, "ann", "answered", event=RELAY, call="x", n=n, ok=True),
    ]


GOOD = [
    Record(0.0, "ann", "joined", session="sa"),
    Record(0.0, "bob", "joined", session="sb"),
    _heard(1.0, "ann", "call:initiated", seq=1000, session="sa"),
    _heard(1.0, "bob", "call:incoming", seq=1000, session="sb"),
    Record(2.0, "bob", "asked", event="call:accept", call="x"),
    _heard(2.1, "ann", "call:accepted", by="bob", seq=2100, session="sa"),
    _heard(2.1, "bob", "call:accepted", by="bob", seq=2100, session="sb"),
    Record(2.2, "bob", "answered", event="call:accept", call="x", ok=True),
    *_relay(3.0, 1),
    *_relay(4.0, 2),
    *_relay(5.0, 3),
    Record(6.0, "bob", "joined", session="sb", resumed=True),
    _heard(7.0, "ann", "call:ended", by="ann", reason="hangup", seq=7000, session="sa"),
    _heard(7.0, "bob", "call:ended", by="ann", reason="hangup", seq=7000, session="sb"),
    Record(8.0, "ann", "status", in_call=False),
    Record(8.0, "bob", "status", in_call=False),
]
BOB_ENDS = next(i for i, r in enumerate(GOOD) if r.user == "bob" and r.event == "call:ended")
BOB_HEARS_2 = next(i for i, r in enumerate(GOOD) if r.user == "bob" and r.n == 2)
BOB_HEARS_3 = next(i for i, r in enumerate(GOOD) if r.user == "bob" and r.n == 3)
BOB_ACCEPTED = next(i for i, r in enumerate(GOOD) if r.user == "bob" and r.event == "call:accepted")


def _without(*indexes: int) -> list[Record]:
    return [record for i, record in enumerate(GOOD) if i not in indexes]


def _with(index: int, *more: Record, **changed: object) -> list[Record]:
    new = replace(GOOD[index], **changed)  # type: ignore[arg-type]
    return [*GOOD[:index], new, *more, *GOOD[index + 1 :]]


def _swapped(one: int, other: int) -> list[Record]:
    history = list(GOOD)
    history[one], history[other] = (
        replace(history[other], seq=history[one].seq),
        replace(history[one], seq=history[other].seq),
    )
    return history


BAD = {
    "bob did not hear the end": _without(BOB_ENDS),
    "bob heard 2 ends": _with(BOB_ENDS, replace(GOOD[BOB_ENDS], seq=7100)),
    "different ends": _with(BOB_ENDS, by="bob"),
    "different ends, of reason": _with(BOB_ENDS, reason="timeout"),
    "bob heard call:accepted of x after its end": [*GOOD, replace(GOOD[BOB_ACCEPTED], seq=9000)],
    "bob heard 2 times that x was accepted": _with(BOB_ACCEPTED, replace(GOOD[BOB_ACCEPTED], seq=2200)),
    "x was accepted, bob did not hear of it": _without(BOB_ACCEPTED),
    "relay 2 of x was acknowledged to ann, bob did not hear it": _without(BOB_HEARS_2),
    "heard relay 2 of x 2 times, sent 1 times": _with(BOB_HEARS_2, replace(GOOD[BOB_HEARS_2], seq=4100)),
    "out of order": _swapped(BOB_HEARS_2, BOB_HEARS_3),
    "which nobody sent": _with(BOB_HEARS_2, replace(GOOD[BOB_HEARS_2], n=9, seq=4100)),
    "with seq 4000 after 4000": _with(BOB_HEARS_3, seq=4000),
    "bob is in a call": [*GOOD[:-1], replace(GOOD[-1], in_call=True)],
}


def test_a_good_history_passes() -> None:
    assert check(GOOD) == []


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_history_is_rejected(wrong: str) -> None:
    said = check(BAD[wrong])
    assert any(wrong.partition(", of")[0] in line for line in said), said


def test_a_resume_that_is_not_complete_excuses_what_it_may_have_lost() -> None:
    resumed = next(i for i, record in enumerate(GOOD) if record.resumed)
    incomplete = replace(GOOD[resumed], resumed=False, session="new")
    history = [
        *GOOD[:BOB_HEARS_3],
        *GOOD[BOB_HEARS_3 + 1 : resumed],
        incomplete,
        *GOOD[resumed + 1 : BOB_ENDS],
    ]
    assert check(history) == []


def test_a_complete_resume_excuses_nothing() -> None:
    assert check(_without(BOB_HEARS_3)) == ["relay 3 of x was acknowledged to ann, bob did not hear it"]


def test_a_relay_that_was_sent_twice_may_come_twice() -> None:
    asked = next(i for i, record in enumerate(GOOD) if record.what == "asked" and record.n == 2)
    history = [*GOOD[: asked + 1], *GOOD[asked : BOB_HEARS_2 + 1], replace(GOOD[BOB_HEARS_2], seq=4100)]
    assert check([*history, *GOOD[BOB_HEARS_2 + 1 :]]) == []


def test_a_relay_without_an_answer_need_not_come() -> None:
    answered = next(i for i, record in enumerate(GOOD) if record.what == "answered" and record.n == 2)
    assert check(_without(BOB_HEARS_2, answered)) == []


def test_a_history_is_kept(tmp_path: Path) -> None:
    save(GOOD, tmp_path / "history.jsonl")
    assert load(tmp_path / "history.jsonl") == GOOD


def test_a_plan_depends_on_its_seed_only() -> None:
    assert plan(7, 600, ["nats-0"]) == plan(7, 600, ["nats-0"]) != plan(8, 600, ["nats-0"])


def test_a_long_plan_strikes_every_process_in_every_way() -> None:
    faults = plan(1, 7200, ["nats-0"])
    for kind in ("kill", "pause"):
        assert {fault.victim for fault in faults if fault.kind == kind} == {*SERVICES, "nats-0"}
    for kind in ("stop", "cut", "partition"):
        assert {fault.victim for fault in faults if fault.kind == kind} == set(SERVICES)
    assert all(b.at >= a.at + a.seconds for a, b in pairwise(faults))
