"""Late is decided by the clock of whoever does it, and never too late."""

import pytest

from shared.messaging import time_budget

NOW = 1_000_000
FOR = 2_000
"""Milliseconds that an asker waits."""


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "now_ms", lambda: NOW)


@pytest.mark.parametrize("skew", [-5_000, -300, 0, 300, 5_000])
@pytest.mark.parametrize("on_its_way", [0, 500])
def test_a_clock_that_is_wrong_makes_nothing_late_seem_in_time(skew: int, on_its_way: int) -> None:
    """``skew``: how far the asker's clock is ahead."""
    due = time_budget.due(NOW - on_its_way + skew + FOR, FOR)
    assert due <= NOW + FOR
    if skew <= 0:
        assert due <= NOW - on_its_way + FOR


def test_a_request_that_lay_somewhere_is_late() -> None:
    assert time_budget.is_over(time_budget.due(NOW - 1, FOR))
    assert not time_budget.is_over(time_budget.due(NOW + 1, FOR))


def test_nothing_is_late_for_who_waits_for_ever() -> None:
    assert not time_budget.is_over(time_budget.due(0, 0)) and not time_budget.is_over(0)
    assert time_budget.share(0, 0.8) == 0.8


@pytest.mark.parametrize(
    ("left", "share"), [(2_000, 0.8), (10_000, 0.8), (1_000, 0.4), (0, 0.0), (-500, 0.0)]
)
def test_what_is_spent_on_others_leaves_time_to_do_it_oneself(left: int, share: float) -> None:
    assert time_budget.share(NOW + left, 0.8) == share
