"""Rates in the environment."""

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.token_bucket import Rate, RateSetting

RATES = TypeAdapter(RateSetting)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20/60", Rate(20, 60)), (" 1/1 ", Rate(1, 1)), ("999999/99999", Rate(999_999, 99_999))],
)
def test_rates(text: str, rate: Rate) -> None:
    assert RATES.validate_python(text) == rate


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1000000/60", "events must be 1 to 999999, in events/seconds like 20/60"),
        (f"{'9' * 5000}/60", "events must be 1 to 999999, in events/seconds like 20/60"),
        ("0/60", "events must be 1 to 999999, in events/seconds like 20/60"),
        ("20/100000", "seconds must be 1 to 99999, in events/seconds like 20/60"),
        ("20/0", "seconds must be 1 to 99999, in events/seconds like 20/60"),
        ("20", "must be events/seconds, like 20/60"),
        ("", "must be events/seconds, like 20/60"),
        ("20/60/5", "must be events/seconds, like 20/60"),
        ("20 / 60", "must be events/seconds, like 20/60"),
        ("-1/60", "must be events/seconds, like 20/60"),
        ("1.5/60", "must be events/seconds, like 20/60"),
        ("٢٠/60", "must be events/seconds, like 20/60"),
    ],
)
def test_a_wrong_rate_is_refused_for_what_is_wrong_with_it(text: str, why: str) -> None:
    with pytest.raises(ValidationError) as raised:
        RATES.validate_python(text)
    assert raised.value.errors()[0]["msg"] == f"Value error, {why}"
