"""Reports of losses: which windows they concern, and when they are acted on."""

import pytest

from services.gateway.relay import loss_detector
from services.gateway.relay.loss_detector import LossDetector
from services.gateway.relay.send_buffer import SendBuffer
from services.gateway.relay.send_window import AGAIN_SECONDS, SendWindow


@pytest.fixture
def buffer() -> SendBuffer:
    return SendBuffer()


@pytest.fixture
def windows(buffer: SendBuffer) -> list[SendWindow]:
    return [buffer.open(session, "c", 1, 0.0) for session in ("s", "t")]


def test_nothing_is_due_without_a_report(buffer: SendBuffer, windows: list[SendWindow]) -> None:
    assert LossDetector(buffer).windows_due(1_000.0) == []


def test_a_report_of_sessions_concerns_their_windows_alone(
    buffer: SendBuffer, windows: list[SendWindow]
) -> None:
    losses = LossDetector(buffer)
    losses.sessions_suspected(["t", "unknown"])
    assert losses.windows_due(1_000.0) == windows[1:]
    assert losses.windows_due(2_000.0) == [], "settled"


def test_a_report_of_all_concerns_all_and_settles_those_of_sessions(
    buffer: SendBuffer, windows: list[SendWindow]
) -> None:
    losses = LossDetector(buffer)
    losses.sessions_suspected(["t"])
    losses.all_suspected()
    assert losses.windows_due(1_000.0) == windows
    assert losses.windows_due(2_000.0) == []


def test_reports_within_a_moment_wait_and_count_once(buffer: SendBuffer, windows: list[SendWindow]) -> None:
    losses = LossDetector(buffer)
    losses.all_suspected()
    assert losses.windows_due(1_000.0) == windows
    losses.all_suspected()
    losses.all_suspected()
    assert losses.windows_due(1_000.0 + AGAIN_SECONDS - 0.01) == []
    assert losses.windows_due(1_000.0 + AGAIN_SECONDS) == windows
    assert losses.windows_due(2_000.0) == []


def test_a_lost_connection_does_not_wait(buffer: SendBuffer, windows: list[SendWindow]) -> None:
    losses = LossDetector(buffer)
    losses.all_suspected()
    assert losses.windows_due(1_000.0) == windows
    losses.connection_lost()
    assert losses.windows_due(1_000.1) == windows


def test_acknowledgements_are_remembered_by_callcore(
    buffer: SendBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_detector, "_INSTANCES_MAX", 2)
    losses = LossDetector(buffer)
    assert not losses.acknowledged_since("cc-1", 5.0)
    losses.acknowledged("cc-1", 5.0)
    losses.acknowledged("cc-2", 6.0)
    losses.acknowledged("cc-1", 7.0)
    assert losses.acknowledged_since("cc-1", 7.0) and not losses.acknowledged_since("cc-1", 7.1)
    losses.acknowledged("cc-3", 8.0)
    assert not losses.acknowledged_since("cc-2", 6.0), "the one silent for longest is forgotten"
    assert losses.acknowledged_since("cc-1", 7.0) and losses.acknowledged_since("cc-3", 8.0)
