"""Decide what a frame or a timer of a websocket means, by its stage. Does no I/O and reads no clock.

:class:`~services.gateway.websocket.connection.WebSocket` reads and writes, and does what is decided here.
"""

from enum import Enum, auto
from typing import Final

from services.gateway.protocol.packets import CLOSE, PONG, PROBE, UPGRADE

CONTROL_FRAMES_MAX, CONTROL_FRAMES_SECONDS = 100, 10.0
"""Rate limit of a client's pings, pongs and other frames without a message, because each costs CPU."""


class Stage(Enum):
    """Stages of a websocket. In :attr:`PROBING` and :attr:`UPGRADING` its client still polls."""

    PROBING = auto()
    UPGRADING = auto()
    OPEN = auto()
    CLOSING = auto()
    """The gateway's close frame is sent: every frame but the client's close frame is ignored."""


class Action(Enum):
    """Outcomes of a text frame, for the connection."""

    ANSWER_PROBE = auto()
    """Confirm that the websocket works, and end the client's polls."""
    FINISH_UPGRADE = auto()
    """Move the client from polling to the websocket."""
    TAKE_MESSAGE = auto()
    """Handle a Socket.IO packet."""
    TAKE_PONG = auto()
    """Check whether it answers a ping, and count it."""
    COUNT = auto()
    """Count a frame that has no meaning in this stage."""
    END = auto()
    """End the Engine.IO connection: its client says that the transport breaks."""
    CLOSE = auto()
    """Send a close frame."""
    IGNORE = auto()


class Timeout(Enum):
    """Outcomes of an expired timer, for the connection."""

    PING = auto()
    """Send a ping, and wait for the pong."""
    WAIT = auto()
    """Wait once more: the pong may be behind frames that are not read yet."""
    GIVE_UP = auto()
    """Abort the connection: its client has not answered a ping."""
    CLOSE = auto()
    """Send a close frame: the upgrade takes too long."""
    ABORT = auto()
    """Abort the connection: its client has not answered the close frame."""


_TEXT: Final = {
    # In the stage    a probe asks for     an upgrade             a pong            a close packet a message
    Stage.PROBING:   (Action.ANSWER_PROBE, Action.CLOSE,          Action.CLOSE,     Action.CLOSE,  Action.CLOSE),
    Stage.UPGRADING: (Action.CLOSE,        Action.FINISH_UPGRADE, Action.CLOSE,     Action.CLOSE,  Action.CLOSE),
    Stage.OPEN:      (Action.COUNT,        Action.COUNT,          Action.TAKE_PONG, Action.END,    Action.TAKE_MESSAGE),
    Stage.CLOSING:   (Action.IGNORE,       Action.IGNORE,         Action.IGNORE,    Action.IGNORE, Action.IGNORE),
}  # fmt: skip
_COLUMN: Final = {PROBE: 0, UPGRADE: 1, PONG: 2, CLOSE: 3}
_MESSAGE: Final = 4


class WebSocketState:
    """The stage of one websocket, its heartbeat, and its count of control frames."""

    __slots__ = ("_control_frames", "_control_since", "awaits_pong", "stage")

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.awaits_pong = False
        """True if the client has still to answer a ping of the heartbeat."""
        self._control_frames, self._control_since = 0, 0.0

    def text(self, frame: str) -> Action:
        """Return what to do about a text frame, which must have passed ``packets.check_frame``."""
        action = _TEXT[self.stage][_COLUMN.get(frame, _MESSAGE)]
        if action is Action.ANSWER_PROBE:
            self.stage = Stage.UPGRADING
        elif action is Action.FINISH_UPGRADE:
            self.awaits_pong = True  # Engine.IO may have sent a ping to the polling client
        return action

    def open(self) -> None:
        """Note that the upgrade is done: the websocket is the connection's transport."""
        self.stage = Stage.OPEN

    def close(self) -> bool:
        """Note that a close frame is sent. Return False if one was sent before."""
        if self.stage is Stage.CLOSING:
            return False
        self.stage = Stage.CLOSING
        return True

    def pong(self) -> None:
        """Note that the client has answered a ping."""
        self.awaits_pong = False

    def control_frame(self, now: float) -> bool:
        """Count a frame without a message. Return True if those are too many. ``now``: seconds of any clock."""
        if now - self._control_since > CONTROL_FRAMES_SECONDS:
            self._control_frames, self._control_since = 0, now
        self._control_frames += 1
        return self._control_frames > CONTROL_FRAMES_MAX

    def timer_expired(self, *, reading_paused: bool) -> Timeout:
        """Return what to do now. ``reading_paused``: True if frames of the client wait to be read."""
        if self.stage is Stage.CLOSING:
            return Timeout.ABORT
        if self.stage is not Stage.OPEN:
            return Timeout.CLOSE
        if not self.awaits_pong:
            self.awaits_pong = True
            return Timeout.PING
        return Timeout.WAIT if reading_paused else Timeout.GIVE_UP
