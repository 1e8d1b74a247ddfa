"""Whether the client of a websocket is there, which it is asked, and how much it may say that means nothing."""

import asyncio

from services.gateway.compat.engineio_compat import Connection
from services.gateway.websocket.framing import Writing
from services.gateway.websocket.writer import Outlet, Stage

CHATTER_MAX, CHATTER_SECONDS = 100, 10.0
"""How many pings, pongs and the like a client may send in how long: each costs, and none means anything."""


class Heartbeat(Outlet):
    """One timer a connection: it asks, it waits for the answer, and it ends what takes too long to begin or to end."""

    __slots__ = ("_asked", "_chatter", "_chatter_since", "_reading_paused", "_timer")

    def __init__(self, connection: Connection, stage: Stage, writing: Writing) -> None:
        super().__init__(connection, stage, writing)
        self._reading_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        """Whether the client has still to answer a ping."""
        self._chatter, self._chatter_since = 0, 0.0

    @property
    def asked(self) -> bool:
        """True if the client has still to answer a ping of the heartbeat."""
        return self._asked

    def _pong(self) -> bool:
        """Take a pong. Return True if it is a sign of life: if it answers a ping that has left for the client."""
        if not self._answers():
            return False
        self._asked = False
        self._connection.last_ping = None
        if self._stage is Stage.OPEN:
            self._set_timer(self._connection.server.ping_interval)
        return True

    def _silent(self) -> None:
        """Give up a client that has not answered in time."""
        raise NotImplementedError

    def _chat(self) -> bool:
        """Whether what means nothing is too much now."""
        now = asyncio.get_running_loop().time()
        if now - self._chatter_since > CHATTER_SECONDS:
            self._chatter, self._chatter_since = 0, now
        self._chatter += 1
        return self._chatter > CHATTER_MAX

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        if self._stage is Stage.CLOSING:
            self.abort()
            return
        if self._stage is not Stage.OPEN:
            self._close()
            return
        if not self._asked:
            self._asked = True
            self.ping()
        elif not self._reading_paused:
            self._silent()
            return
        # Else its answer may have come, and waits to be read until what came before it is done with.
        self._set_timer(self._connection.server.ping_timeout)
