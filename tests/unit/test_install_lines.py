"""What the docs tell people to install: extras by the exact names that their packages have, as older pips want them."""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
LINE = re.compile(r'pip install .*?"([A-Za-z0-9_.-]+)\[([^\]]+)\]"')
FOUND = [(file.name, *found) for file in FILES for found in LINE.findall(file.read_text())]


@pytest.mark.parametrize(("file", "package", "extras"), FOUND)
def test_an_extra_is_there(file: str, package: str, extras: str) -> None:
    there = metadata(package).get_all("Provides-Extra") or []
    assert set(extras.split(",")) <= set(there), file


def test_there_are_some() -> None:
    assert {file for file, *_ in FOUND} >= {"README.md", "clients.md", "call_bot.py"}


def _locked(name: str) -> set[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if re.match(r"[a-z0-9.-]+==", line)}


def test_what_runs_has_no_build_tool() -> None:
    assert _locked("build") >= {"hatchling", "editables"}
    assert not _locked("run") & _locked("build")
    assert _locked("dev") >= _locked("build"), "environments for tests install this package, too"


def test_the_image_gets_an_environment_that_builds_nothing() -> None:
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    installed = [line for line in stages[1].splitlines() if "/opt/signalling/bin/python install" in line]
    assert installed and not any("build.txt" in line for line in installed)
    assert "COPY --from=build /opt/signalling " in stages[2] and "tools" not in stages[2]
