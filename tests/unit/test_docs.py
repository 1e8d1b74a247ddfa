"""The generated pages are as the code has it."""

from pathlib import Path

import pytest

from shared import subjects
from signalling import docs


def test_the_pages_are_fresh() -> None:
    assert docs.stale() == [], "run python -m signalling.docs"


def test_stale_and_missing_pages_are_named(tmp_path: Path) -> None:
    docs.write(tmp_path)
    assert docs.stale(tmp_path) == []
    (tmp_path / "docs/settings.md").write_text("old")
    (tmp_path / "docs/subjects.md").unlink()
    assert docs.stale(tmp_path) == ["docs/settings.md", "docs/subjects.md"]


def test_check_names_the_page_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "stale", lambda: ["docs/settings.md"])
    monkeypatch.setattr("sys.argv", ["docs", "--check"])
    assert docs.main() == 1
    assert "docs/settings.md is stale" in capsys.readouterr().err


def test_every_setting_says_what_it_is() -> None:
    for service in docs._present():
        for setting in docs._settings(service):
            assert setting.description, f"{service}: {setting.key}"


def test_every_stream_and_bucket_is_there() -> None:
    names = {value for name, value in vars(subjects).items() if name.startswith("STREAM_")}
    names |= {f"KV_{value}" for name, value in vars(subjects).items() if name.startswith("BUCKET_")}
    assert {stored.name for stored in docs.STORED} == names
