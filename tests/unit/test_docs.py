"""The generated pages are as the code has it."""

from pathlib import Path

import pytest

from shared import subjects
from signalling.docgen import generate


def test_the_pages_are_fresh() -> None:
    assert generate.stale() == [], "run python -m signalling.docgen"


def test_stale_and_missing_pages_are_named(tmp_path: Path) -> None:
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []
    (tmp_path / "docs/settings.md").write_text("old")
    (tmp_path / "docs/subjects.md").unlink()
    assert generate.stale(tmp_path) == ["docs/settings.md", "docs/subjects.md"]


def test_check_names_the_page_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "stale", lambda: ["docs/settings.md"])
    monkeypatch.setattr("sys.argv", ["docs", "--check"])
    assert generate.main() == 1
    assert "docs/settings.md is stale" in capsys.readouterr().err


def test_every_setting_says_what_it_is() -> None:
    for service in generate._present():
        for setting in generate._settings(service):
            assert setting.description, f"{service}: {setting.key}"


def test_every_stream_and_bucket_is_there() -> None:
    names = {value for name, value in vars(subjects).items() if name.startswith("STREAM_")}
    names |= {f"KV_{value}" for name, value in vars(subjects).items() if name.startswith("BUCKET_")}
    assert {stored.name for stored in generate.STORED} == names
