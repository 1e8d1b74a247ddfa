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
