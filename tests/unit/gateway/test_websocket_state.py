"""The stages of a websocket: what each text frame and the timer mean in each, without a connection or a clock."""

import itertools

import pytest

from services.gateway.websocket.state import (
    CONTROL_FRAMES_MAX,
    CONTROL_FRAMES_SECONDS,
    Action,
    Stage,
    Timeout,
    WebSocketState,
)

PROBE, UPGRADE, PONG, CLOSE, MESSAGE = FRAMES = "2probe", "5", "3", "1", '42["event"]'
MEANT = {
    (Stage.PROBING, PROBE): Action.ANSWER_PROBE,
    (Stage.UPGRADING, UPGRADE): Action.FINISH_UPGRADE,
    (Stage.OPEN, PROBE): Action.COUNT,
    (Stage.OPEN, UPGRADE): Action.COUNT,
    (Stage.OPEN, PONG): Action.TAKE_PONG,
    (Stage.OPEN, CLOSE): Action.END,
    (Stage.OPEN, MESSAGE): Action.TAKE_MESSAGE,
}
OTHERWISE = {
    Stage.PROBING: Action.CLOSE, Stage.UPGRADING: Action.CLOSE, Stage.CLOSING: Action.IGNORE,
}  # fmt: skip


@pytest.mark.parametrize(("stage", "frame"), list(itertools.product(Stage, FRAMES)))
def test_every_frame_means_one_thing_in_every_stage(stage: Stage, frame: str) -> None:
    state = WebSocketState(stage)
    action = state.text(frame)
    assert action is (MEANT.get((stage, frame)) or OTHERWISE[stage])
    assert state.stage is (Stage.UPGRADING if action is Action.ANSWER_PROBE else stage)


def test_an_upgrade() -> None:
    state = WebSocketState(Stage.PROBING)
    assert [state.text(PROBE), state.text(UPGRADE)] == [Action.ANSWER_PROBE, Action.FINISH_UPGRADE]
    assert state.stage is Stage.UPGRADING, "what the client has posted is handled first"
    assert state.awaits_pong, "a ping may have been sent to the polling client"
    state.open()
    assert state.text(MESSAGE) is Action.TAKE_MESSAGE


def test_a_probe_comes_once() -> None:
    state = WebSocketState(Stage.PROBING)
    state.text(PROBE)
    assert state.text(PROBE) is Action.CLOSE


def test_a_close_frame_is_sent_once_and_then_all_is_ignored() -> None:
    state = WebSocketState(Stage.OPEN)
    assert state.close() and not state.close()
    assert {state.text(frame) for frame in FRAMES} == {Action.IGNORE}
    assert state.timer_expired(reading_paused=False) is Timeout.ABORT


def test_the_timer_pings_and_gives_up() -> None:
    state = WebSocketState(Stage.OPEN)
    assert state.timer_expired(reading_paused=False) is Timeout.PING and state.awaits_pong
    state.pong()
    assert state.timer_expired(reading_paused=False) is Timeout.PING
    assert state.timer_expired(reading_paused=False) is Timeout.GIVE_UP


def test_a_pong_may_be_behind_frames_that_are_not_read_yet() -> None:
    state = WebSocketState(Stage.OPEN)
    state.timer_expired(reading_paused=True)
    assert state.timer_expired(reading_paused=True) is Timeout.WAIT
    assert state.timer_expired(reading_paused=False) is Timeout.GIVE_UP


@pytest.mark.parametrize("stage", [Stage.PROBING, Stage.UPGRADING])
def test_an_upgrade_takes_as_long_as_the_timer(stage: Stage) -> None:
    assert WebSocketState(stage).timer_expired(reading_paused=True) is Timeout.CLOSE


def test_frames_without_a_message_are_counted() -> None:
    state = WebSocketState(Stage.OPEN)
    assert not any(state.control_frame(1_000.0) for _ in range(CONTROL_FRAMES_MAX))
    assert state.control_frame(1_000.0 + CONTROL_FRAMES_SECONDS), "one too many"
    assert not state.control_frame(1_000.1 + CONTROL_FRAMES_SECONDS), "counted anew"
