"""Modules and classes are where the glossary says, and packages where the architecture draws them."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs/glossary.md").read_text()
TERMS = dict(re.findall(r"^### (.+)\n\n((?:.+\n)+\n(?:Lives in .+\n(?:.+\n)*)?)", TEXT, re.MULTILINE))
_FILE = re.compile(r"`([\w/]+\.py)`(?: \(`(\w+)`\))?")
_MOVED = re.findall(r"^\| `([\w/]+)` \| (.+) \|$", TEXT, re.MULTILINE)


def _homes(term: str) -> list[tuple[str, str]]:
    _, _, lives = TERMS[term].partition("\n\nLives in ")
    return _FILE.findall(lives)


def _classes(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_short_and_lives_somewhere(term: str) -> None:
    said, _, _ = TERMS[term].partition("\n\nLives in ")
    assert len(said.splitlines()) <= 3
    assert _homes(term), "say where it lives"
    for path, name in _homes(term):
        assert (ROOT / path).is_file(), path
        assert not name or name in _classes(ROOT / path), f"{path} has no class {name}"


def test_every_term_is_read() -> None:
    assert len(TERMS) == TEXT.count("\n### ") > 40


@pytest.mark.parametrize(("package", "names"), _MOVED)
def test_modules_are_where_the_table_says(package: str, names: str) -> None:
    for name in names.split("; "):
        module = name.rpartition(" → ")[2]
        assert (ROOT / package / f"{module}.py").is_file(), name


def test_the_table_of_modules_is_read() -> None:
    assert {"services/gateway/relay", "services/callcore/state", "shared/nats"} <= {
        package for package, _ in _MOVED
    }


def test_packages_are_drawn_as_import_linter_checks_them() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    drawn = page.partition("## Packages and layers")[2].split("```")[1]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = [one for one in pyproject["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    columns = {
        "services.gateway": slice(0, 34),
        "services.callcore": slice(34, 66),
        "shared": slice(66, None),
    }
    assert columns.keys() <= {one["containers"][0] for one in contracts}
    for one in contracts:
        if one["containers"][0] in columns:
            words = re.findall(
                r"\w+", "\n".join(line[columns[one["containers"][0]]] for line in drawn.splitlines())
            )
            layers = [name for layer in one["layers"] for name in layer.split(" | ")]
            assert [word for word in words if word in layers] == layers
