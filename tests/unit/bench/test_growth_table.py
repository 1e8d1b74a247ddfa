"""What the table of growth says of figures that are known."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench.growth_table import Step, plot, table

REST = {"cpu_us": 400_000.0, "cpu_us.gateway": 100_000.0, "cpu_us.nats": 300_000.0, "cores": 0.05}
STEP = Step(
    calls=10,
    idle=0,
    rest=REST,
    steady={"cpu_us": 125.0, "cpu_us.gateway": 60.0, "cpu_us.nats": 65.0, "per_s": 2000.0},
    full={"cpu_us": 55.0, "cpu_us.gateway": 30.0, "cpu_us.nats": 25.0, "per_s": 10_000.0},
)


def test_what_the_system_costs_without_relays_is_not_theirs() -> None:
    assert STEP.net(STEP.steady) == pytest.approx(125 - 0.05 / 2000 * 1e6)
    assert STEP.net(STEP.full) == pytest.approx(55 - 0.05 / 10_000 * 1e6)


def test_roles_add_up_to_all_of_it() -> None:
    for figures in (STEP.steady, STEP.full):
        roles = STEP.net(figures, "gateway") + STEP.net(figures, "nats")
        assert roles == pytest.approx(STEP.net(figures))


def test_a_line_for_each_step() -> None:
    lines = table([STEP, replace(STEP, calls=2000, idle=10_000)]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 10 | 0 | 5.00 | 100 | gateway 53.8, nats 46.2 | 50.0 |")
    assert lines[3].startswith("| 2,000 | 10,000 |")


@pytest.mark.parametrize("calls", [(10, 2000), (10,)])
def test_the_picture_is_one(calls: tuple[int, ...]) -> None:
    steps = [replace(STEP, calls=count, idle=idle) for idle in (0, 10_000) for count in calls]
    lines = ET.fromstring(plot(steps)).findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 4
    assert all(len(line.attrib["points"].split()) == len(calls) for line in lines)
