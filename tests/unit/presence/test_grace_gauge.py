"""How many sessions are in their grace, over all instances, whoever sees what of them."""

from hypothesis import given
from hypothesis import strategies as st

from services.presence.grace_gauge import GraceGauge

GRACE_MS = 1_000


def test_it_counts_until_the_grace_is_over() -> None:
    grace = GraceGauge(GRACE_MS)
    grace.begun(0, 0)
    grace.begun(500, 500)
    assert [grace.count(now) for now in (500, 999, 1_000, 1_499, 1_500)] == [2, 2, 1, 1, 0]


def test_one_that_ends_elsewhere_is_taken_off_there() -> None:
    here, there = GraceGauge(GRACE_MS), GraceGauge(GRACE_MS)
    here.begun(0, 0)
    there.ended(0, 400)
    assert (here.count(400), there.count(400)) == (1, -1)
    assert (here.count(1_000), there.count(1_000)) == (0, 0)


def test_a_late_outcome_is_not_sent() -> None:
    grace = GraceGauge(GRACE_MS)
    grace.ended(0, 1_000)
    grace.begun(0, 2_000)
    assert grace.count(2_000) == 0


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 1_500), st.integers(0, 2), st.integers(0, 2)))
)
def test_the_sum_is_right_at_any_time(sessions: list[tuple[int, int, int, int]]) -> None:
    """(lost at, continued after, seen to begin by, seen to end by) of each."""
    instances = [GraceGauge(GRACE_MS) for _ in range(3)]
    happenings = [(lost, "begun", lost, who) for lost, _, who, _ in sessions]
    happenings += [(lost + after, "ended", lost, who) for lost, after, _, who in sessions if after < GRACE_MS]
    for now, what, lost, who in sorted(happenings, key=lambda each: each[0]):
        getattr(instances[who], what)(lost, now)
        there = sum(
            lost <= now < lost + min(after, GRACE_MS) or (lost == now and what == "begun" and after == 0)
            for lost, after, _, _ in sessions
        )
        if len({at for at, *_ in happenings}) == len(
            happenings
        ):  # at one moment there is a before and an after
            assert sum(instance.count(now) for instance in instances) == there
    assert sum(instance.count(5_000) for instance in instances) == 0
