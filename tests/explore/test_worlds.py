"""Small worlds exhaustively: nothing is wrong in any of them, and each planted fault is found."""

import pytest

from tests.explore.explorer import Violation, explore
from tests.explore.faults import FAULTS, Fault
from tests.explore.world import Maker, Spec
from tests.explore.worlds import WORLDS

BY_NAME = {spec.name: spec for spec in WORLDS}
SMALL = [spec for spec in WORLDS if not spec.large]
CHECKED = ("glare", "the callee's device joins", "death while placing", "death while ending")


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_nothing_is_wrong(spec: Spec) -> None:
    count = explore(spec.name, Maker(spec))
    print(spec.name, count)  # noqa: T201  # `pytest -s` shows how many states there are
    assert count.ends > 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    spec = BY_NAME[fault.world]
    with pytest.raises(Violation):
        explore(spec.name, Maker(spec, fault.changes))


@pytest.mark.parametrize("name", CHECKED)
def test_sleep_sets_leave_out_no_state(name: str) -> None:
    with_, without = (explore(name, Maker(BY_NAME[name]), sleeping=sleeping) for sleeping in (True, False))
    assert (with_.states, with_.ends) == (without.states, without.ends)
    assert with_.steps < without.steps or name == "death while placing"
