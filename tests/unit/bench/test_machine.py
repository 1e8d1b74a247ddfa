"""What a run was made on."""

import sysconfig

import pytest

from bench import machine

FLAG = "-fprofile-use -fprofile-correction"


@pytest.mark.parametrize(
    ("arguments", "flag", "optimised"),
    [
        ("'--prefix=/home/a/.pyenv/versions/3.11.7' '--enable-shared'", FLAG, False),
        ("'--prefix=/usr/local' '--enable-optimizations' '--with-lto'", FLAG, True),
        ("'--enable-shared' '--prefix=/usr' '--with-computed-gotos'", "", True),  # Debian
        (None, None, True),  # Windows
    ],
)
def test_a_python_that_was_built_without_optimisation_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, arguments: str | None, flag: str | None, optimised: bool
) -> None:
    variables = {"CONFIG_ARGS": arguments, "PGO_PROF_USE_FLAG": flag}
    monkeypatch.setattr(sysconfig, "get_config_var", variables.__getitem__)
    assert machine.optimised() is optimised
    assert ("built without optimisation" in machine.describe()["python"]) is not optimised
