"""What a table of the benchmark says of figures that are known."""

import pytest

from bench import plot, profile, table
from bench.table import METRICS, Rounds

CPU = next(m for m in METRICS if (m.mode, m.key) == ("relay", "cpu_us"))
PER_S = next(m for m in METRICS if (m.mode, m.key) == ("relay", "per_s"))


def rounds(**cpu: list[float | None]) -> Rounds:
    """Server → CPU per relay of each round; ``None``: could not be measured."""
    return {
        server: [None if value is None else {"cpu_us": value, "cpu_us.nats": value / 2} for value in values]
        for server, values in cpu.items()
    }


def test_a_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    measured = rounds(ours=[10, 40, 90], redis=[20, 20, 100])
    found = table.ratio(CPU, measured, "ours", "redis")
    assert found is not None
    assert found.each == [0.5, 2.0, 0.9]
    assert found.median == 0.9
    assert found.reached is True


def test_a_round_that_lacks_one_of_them_counts_for_neither() -> None:
    found = table.ratio(CPU, rounds(ours=[10, None, 30], redis=[None, 20, 10]), "ours", "redis")
    assert found is not None
    assert found.each == [3.0]
    assert table.ratio(CPU, rounds(ours=[10, None], redis=[None, 20]), "ours", "redis") is None


@pytest.mark.parametrize(
    ("metric", "value", "bar", "reached"),
    [(CPU, 0.9, 0.9, True), (CPU, 0.91, 0.9, False), (PER_S, 1.1, 1.1, True), (PER_S, 1.09, 1.1, False)],
)
def test_less_cpu_and_more_relays_are_better(
    metric: table.Metric, value: float, bar: float, reached: bool
) -> None:
    assert metric.reached(value, bar) is reached


def test_another_tree_of_ours_has_a_ratio_and_no_bar() -> None:
    text = table.table({"relay": rounds(ours=[10], **{"ours=x": [20]})}, ["ours", "ours=x"])
    row = next(line for line in text.splitlines() if CPU.label in line)
    assert "0.50 (0.50–0.50)" in row
    assert "bar" not in text


def test_the_table_says_which_bars_are_missed() -> None:
    text = table.table({"relay": rounds(ours=[10], redis=[20], node=[2])}, ["ours", "redis", "node"])
    row = next(line for line in text.splitlines() if CPU.label in line)
    assert "≤ 0.9 × redis: yes" in row
    assert "≤ 3 × node: **no**" in row


def test_shares_name_the_roles() -> None:
    text = table.shares({"relay": rounds(ours=[10, 20, 30])}, ["ours"])
    assert "| ours | 20.0 | nats 10.0 |" in text


def test_the_plot_has_a_dot_for_each_round_and_one_for_the_median() -> None:
    found = table.ratios({"relay": rounds(ours=[10, 1e6], redis=[20, 1])}, ["ours", "redis"])
    assert plot.plot(found, "a < b").count("<circle") == 3


def test_a_profile_counts_a_function_once_in_a_stack_that_has_it_twice() -> None:
    text = profile.summary("main;send;send 3\nmain;read 1\n")
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["75.0%", "send"],
        ["25.0%", "read"],
        ["in", "a", "function", "itself"],
        ["75.0%", "send"],
        ["25.0%", "read"],
    ]
