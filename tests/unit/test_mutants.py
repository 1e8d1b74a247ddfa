"""The runner of the kept mutants. The list itself is checked by ``make mutants``, not here."""

from pathlib import Path

import pytest

from tests.mutants import kept, pure
from tests.mutants.kept import Mutant, changed, judge, stale

MUTANT = Mutant("one", "module.py", "a = 1", "a = 2", "test_module.py", "none")


@pytest.mark.parametrize("source", ["b = 1\n", "a = 1\na = 1\n"])
def test_a_text_that_is_not_there_exactly_once_is_an_error(source: str) -> None:
    with pytest.raises(ValueError, match=r"its text is \d times in module.py, not once"):
        changed(MUTANT, source)


def test_a_change_that_is_no_python_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a = 1\n")
    assert stale([MUTANT], tmp_path) == []
    assert len(stale([MUTANT._replace(new="a = ("), MUTANT._replace(file="gone.py")], tmp_path)) == 2


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ("assert a == 1", ""),
        ("assert a", "test_module.py passes"),
        ("assert a == 1\n    x = (", "test_module.py cannot be run"),
    ],
)
def test_only_a_test_that_fails_notices_a_mutant(tmp_path: Path, test: str, problem: str) -> None:
    (tmp_path / "module.py").write_text("a = 1\n")
    (tmp_path / "test_module.py").write_text(f"from module import a\n\ndef test() -> None:\n    {test}\n")
    verdict = judge(MUTANT, tmp_path)
    assert verdict.problem.startswith(problem) and bool(verdict.problem) == bool(problem)
    assert (tmp_path / "module.py").read_text() == "a = 1\n"


def test_the_list_is_read() -> None:
    mutants = kept.read()
    assert len(mutants) >= 22 and len({mutant.name for mutant in mutants}) == len(mutants)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        (
            "services.gateway.relay.send_window.xǁSendWindowǁis_full__mutmut_1",
            "services.gateway.relay.send_window.SendWindow.is_full",
        ),
        ("services.presence.model.x_join__mutmut_56", "services.presence.model.join"),
        ("services.presence.model.x__spent__mutmut_8", "services.presence.model._spent"),
    ],
)
def test_functions_have_their_names(name: str, function: str) -> None:
    assert pure.function_of(name) == function
