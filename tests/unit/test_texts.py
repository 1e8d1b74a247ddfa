"""Pages written by hand: links lead somewhere, names exist, lines of prose are short."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GENERATED = {"call-states.md", "metrics.md", "settings.md", "subjects.md"}
WRITTEN = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "web/client/README.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in GENERATED),
    *sorted((ROOT / "docs/adr").glob("*.md")),
]
SHORT = [page for page in WRITTEN if page.parent.name != "adr" and page.name != "CHANGELOG.md"]
"""Decisions and releases are left as they were written."""
MADE = ("bench/out", "web/client/dist", "docs/asyncapi/html")
"""Folders that commands make."""
WIDTH = 100
FOREIGN = {"protocol.py", "recovery.py"}
"""Files of libraries that decisions compare ours with."""

_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(
    r"(?:services|shared|signalling|tests|docs|deploy|bench|web|examples|\.ci)/[\w.{},/*-]*(?:::\w+)?"
)
_MODULE = re.compile(r"(?:services|shared|signalling)(?:\.\w+)+")
_MAKE = re.compile(r"make ([a-z]+)")
_GENERATED = re.compile(r"^<!-- (\w+).*? -->$.*?^<!-- (?:/\1|\1: end) -->$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in words}


def _broken_links(page: Path) -> list[str]:
    broken = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            broken.append(target)
    return broken


def _alternatives(path: str) -> list[str]:
    """Expand the first ``{a,b}`` of a path, and of what comes of it, as a shell does."""
    found = re.search(r"\{([^{}]*)\}", path)
    if found is None:
        return [path]
    start, end = found.span()
    return [one for word in found[1].split(",") for one in _alternatives(path[:start] + word + path[end:])]


def _exists(path: str) -> bool:
    """Return True if a path (with ``*``, ``{a,b}`` or ``::test``) is that of something in the repository."""
    file, _, test = path.partition("::")
    file = file.rstrip("/.,")
    if file.startswith(MADE):
        return True
    for one in _alternatives(file):
        if not any(ROOT.glob(one)):
            return False
    return (
        not test
        or re.search(rf"^\s*(?:async )?def {test}\b", (ROOT / file).read_text(), re.MULTILINE) is not None
    )


def _module_exists(name: str) -> bool:
    """Return True if a dotted name is that of a module, or of something that a module has."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        path = ROOT.joinpath(*parts[:length])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            return length == len(parts) or re.search(rf"\b{parts[length]}\b", file.read_text()) is not None
    return False


def _missing_names(text: str) -> list[str]:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing = []
    for code in [*_CODE.findall(_FENCE.sub("", text)), *_FENCE.findall(text)]:
        words = [
            word for word in re.split(r"[\s\"'(),=]+(?![^{]*\})", code) if "…" not in word and "<" not in word
        ]
        missing += [word for word in words if _PATH.fullmatch(word) and not _exists(word)]
        missing += [word for word in words if _MODULE.fullmatch(word) and not _module_exists(word)]
        missing += [f"make {word}" for word in _MAKE.findall(code) if word not in targets]
    return missing


def _long_lines(text: str) -> list[str]:
    """Return the lines of prose that are too long. Tables and examples cannot be wrapped."""
    lines = _GENERATED.sub("", _FENCE.sub("", text)).splitlines()
    return [line for line in lines if len(line) > WIDTH and not line.startswith("|")]


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    assert _broken_links(page) == []


@pytest.mark.parametrize("page", [page for page in WRITTEN if page.name != "CHANGELOG.md"], ids=_name)
def test_paths_modules_and_make_targets_exist(page: Path) -> None:
    assert _missing_names(page.read_text()) == []


@pytest.mark.parametrize("page", SHORT, ids=_name)
def test_lines_are_short(page: Path) -> None:
    assert _long_lines(page.read_text()) == []


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n[one](#a-b-c) [two](#a) [three](gone.md) [four](https://example.com/gone)\n")
    assert _broken_links(page) == ["#a", "gone.md"]
    text = "`services/gone.py`, `tests/unit/test_{docs,texts}.py`, `tests/unit/test_{docs,gone}.py`, `make gone`\n"
    text += "`tests/unit/test_docs.py::test_the_pages_are_fresh`, `tests/unit/test_docs.py::test_gone`, `shared.gone`\n"
    assert _missing_names(text) == [
        "services/gone.py",
        "tests/unit/test_{docs,gone}.py",
        "make gone",
        "tests/unit/test_docs.py::test_gone",
        "shared.gone",
    ]
    assert _missing_names("```sh\nmake gone\n```\n") == ["make gone"]
    assert _long_lines(
        f"{'a' * 100}\n{'b' * 101}\n| {'c' * 101}\n```\n{'d' * 101}\n```\n<!-- run -->\n{'e' * 101}\n<!-- /run -->\n"
    ) == ["b" * 101]


def test_bare_file_names_exist() -> None:
    """Pages name a file without its folder only if the repository has such a file."""
    folders = ("services", "shared", "signalling", "tests", "bench", "examples", "deploy", ".ci")
    names = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    texts = {page: _FENCE.sub("", page.read_text()) for page in WRITTEN if page.name != "CHANGELOG.md"}
    found = [(_name(page), name) for page, text in texts.items() for name in re.findall(r"`(\w+\.py)`", text)]
    assert [one for one in found if one[1] not in names | FOREIGN] == []


def test_every_alert_is_explained() -> None:
    rules = re.findall(r"- alert: (\w+)", (ROOT / "deploy/prometheus/rules.yml").read_text())
    table = re.findall(
        r"^\| `(\w+)` \| (?:page|ticket) \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    assert sorted(table) == sorted(rules)


def test_every_decision_is_in_the_index_in_order() -> None:
    index = re.findall(
        r"^\| \[(\d{4})\]\(([\w-]+\.md)\)", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE
    )
    pages = sorted(page.name for page in (ROOT / "docs/adr").glob("0*.md"))
    assert index == [(name[:4], name) for name in pages]
