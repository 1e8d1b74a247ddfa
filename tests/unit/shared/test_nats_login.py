"""How a service is told who it is at NATS."""

from pathlib import Path

import pytest

from shared.nats.connection import Login, without_passwords
from shared.service import settings
from shared.service.settings import ServiceSettings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ``.env``, and nothing of the environment's own."""
    monkeypatch.chdir(tmp_path)
    for key in ("NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE"):
        monkeypatch.delenv(key, raising=False)


def test_nobody_in_particular() -> None:
    assert ServiceSettings().nats_login() is None


def test_by_a_variable_or_a_file_which_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NATS_USER", "gateway")
    monkeypatch.setenv("NATS_PASSWORD", "variable")
    assert ServiceSettings().nats_login() == Login("gateway", "variable")
    (tmp_path / "secret").write_text("file\n")
    monkeypatch.setenv("NATS_PASSWORD_FILE", str(tmp_path / "secret"))
    assert ServiceSettings().nats_login() == Login("gateway", "file")


def test_a_password_is_not_in_what_is_printed_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_USER", "gateway")
    monkeypatch.setenv("NATS_PASSWORD", "hunter2")
    config = ServiceSettings()
    assert "hunter2" not in f"{config!r} {config} {config.nats_password}"


def test_a_file_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NATS_PASSWORD_FILE", "/nonexistent/secret")
    with pytest.raises(SystemExit) as ended:
        settings.load(ServiceSettings)
    assert ended.value.code == settings.EXIT_USAGE
    told = capsys.readouterr().err
    assert told == "NATS_PASSWORD_FILE=/nonexistent/secret: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://gateway:hunter2@a:1, tls://b:p@ss@c", "nats://a:1,tls://c"),
        ("gateway:hunter2@a", "a"),
    ],
)
def test_servers_are_shown_without_passwords(url: str, shown: str) -> None:
    assert without_passwords(url) == shown
