"""Exponential backoff: doubling, the bound, and jitter."""

import pytest

from shared.nats.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(first=0.1, longest=0.5, jitter=0)
    assert [backoff.seconds(attempt) for attempt in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_any_number_of_attempts_is_possible() -> None:
    assert Backoff(first=0.1, longest=5.0, jitter=0).seconds(1_000_000) == 5.0


def test_jitter_takes_at_most_its_share_off_each_wait() -> None:
    backoff = Backoff(first=1.0, longest=8.0, jitter=0.25)
    waits = [backoff.seconds(3) for _ in range(1000)]
    assert 6.0 <= min(waits) < 6.2 and 7.8 < max(waits) <= 8.0
