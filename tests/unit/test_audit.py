"""``make audit`` fails for what is known to be vulnerable, and for nothing else."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / ".ci" / "audit.py"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(audit: ModuleType, read: str, answer: Any, tmp_path: Path) -> bool:
    """What is made of a command that prints ``answer``."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    command = [sys.executable, "-c", f"print({text!r})"]
    return bool(audit.audit("lock", command, tmp_path, getattr(audit, read)))


FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": ""}
GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "1", "vulns": [FLAW]}
UNKNOWN = {"name": "new", "skip_reason": "Dependency not found"}
ADVISORY = {"source": 7, "url": "https://x/advisories/GHSA-1", "severity": "high", "range": "<2"}


@pytest.mark.parametrize(
    ("read", "answer", "good", "said"),
    [
        ("python", {"dependencies": [GOOD]}, True, "nothing known"),
        ("python", {"dependencies": [GOOD, BAD]}, False, "VULNERABLE: bad 1: PYSEC-1, fixed in 2"),
        ("python", {"dependencies": [UNKNOWN, BAD]}, False, "NOT ASKED: about 1 packages (new)"),
        ("python", {"dependencies": [GOOD, UNKNOWN]}, True, "NOT ASKED: about 1 packages (new)"),
        ("python", "", True, "NOT ASKED: no report"),
        ("node", {"vulnerabilities": {}}, True, "nothing known"),
        ("node", {"vulnerabilities": {"ws": {"via": [ADVISORY]}}}, False, "VULNERABLE: ws <2: GHSA-1, high"),
        ("node", {"vulnerabilities": {"io": {"via": ["ws"]}, "ws": {"via": [ADVISORY]}}}, False, "ws <2"),
        ("node", {"error": {"code": "ENOTFOUND", "summary": "getaddrinfo"}}, True, "NOT ASKED: no report"),
        ("node", "<html>", True, "NOT ASKED: no report"),
    ],
)
def test_what_is_said_counts_and_silence_does_not(
    audit: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    read: str,
    answer: Any,
    good: bool,
    said: str,
) -> None:
    assert verdict(audit, read, answer, tmp_path) is good
    assert said in capsys.readouterr().out


def test_what_was_accepted_by_name_does_not_count(audit: ModuleType, tmp_path: Path) -> None:
    audit.ACCEPTED.update({"CVE-1": "not reachable", "GHSA-1": "not reachable"})
    assert verdict(audit, "python", {"dependencies": [BAD]}, tmp_path)
    assert verdict(audit, "node", {"vulnerabilities": {"ws": {"via": [ADVISORY]}}}, tmp_path)


def test_a_tool_that_is_not_there_or_hangs_is_no_answer(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.audit("lock", [str(tmp_path / "nothing")], tmp_path, audit.node)
    audit.SECONDS = 0.2
    assert audit.audit("lock", [sys.executable, "-c", "import time; time.sleep(30)"], tmp_path, audit.node)
    assert capsys.readouterr().out.count("NOT ASKED") == 2


def test_every_lock_file_is_asked_about(audit: ModuleType) -> None:
    root = FILE.parent.parent
    assert {str(file.relative_to(root)) for file in root.glob("requirements/*.txt")} == set(audit.PYTHON)
    skipped = {".venv", "node_modules"}
    locks = {
        str(file.parent.relative_to(root))
        for top in ("web", "tests/e2e", "bench", "docs")
        for file in (root / top).rglob("package-lock.json")
        if not skipped & set(file.parts)
    }
    assert locks == set(audit.NODE)
