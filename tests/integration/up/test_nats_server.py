"""The embedded nats-server and the thread that launches it."""

import threading
import time
from pathlib import Path

import pytest

from signalling.run.nats_server import EmbeddedNats

GONE_SECONDS = 5


def _launched_by_a_thread(server: EmbeddedNats) -> None:
    """The thread is over then."""
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path)
    _launched_by_a_thread(server)
    try:
        # The signal of the test below comes within milliseconds.
        time.sleep(0.5)
        assert server.pid is not None
    finally:
        server.kill()


def test_it_goes_with_its_parent_when_asked(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path, die_with_parent=True)
    try:
        _launched_by_a_thread(server)
        end = time.monotonic() + GONE_SECONDS
        while server.pid is not None:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        server.kill()


def test_it_keeps_its_port(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path)
    server.start()
    try:
        url = server.url
        server.kill()
        server.start()
        assert server.url == url
    finally:
        server.kill()


def test_a_binary_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-binary"):
        EmbeddedNats(tmp_path, binary=str(tmp_path / "no-such-binary")).start()


@pytest.mark.parametrize("told", [None, "3"])
def test_it_takes_half_of_the_cores_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    if told is not None:
        monkeypatch.setenv("GOMAXPROCS", told)
    server = EmbeddedNats(tmp_path)
    server.start()
    try:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        assert f"GOMAXPROCS={told or 4}".encode() in environment
    finally:
        server.kill()
