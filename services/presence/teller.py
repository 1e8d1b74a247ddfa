"""Telling others what became of a user's sessions: old sockets, the event stream, the log."""

from services.presence.model import Joined
from shared import logs, subjects
from shared.bus import Bus
from shared.clock import now_ms
from shared.events import Recorder

log = logs.get(__name__)

REPLACED = "replaced"


class Teller:
    """Safe to tell the same thing again: gateways ignore sockets they do not have, and records carry an id."""

    def __init__(self, bus: Bus, recorder: Recorder) -> None:
        self._bus = bus
        self._recorder = recorder

    async def joined(self, user: str, joined: Joined) -> None:
        """A user joined; sockets that lost their session are told so. Raises :class:`shared.errors.Unavailable`."""
        for old in joined.displaced:
            await self._bus.publish(subjects.control(old.gateway, old.session, REPLACED), old.socket.encode())
            log.info("socket replaced", user=user, session=old.session, gateway=old.gateway)
        for old in joined.gone:
            self.left(user, old.session, old.gateway, old.socket)
        new = joined.session
        self._record(user, "joined", new.session, new.gateway, new.socket)
        log.info("joined", user=user, session=new.session, gateway=new.gateway, resumed=joined.resumed)

    def left(self, user: str, session: str, gateway: str, socket: str) -> None:
        """A session is gone from the socket it was at."""
        self._record(user, "left", session, gateway, socket)
        log.info("left", user=user, session=session, gateway=gateway)

    def _record(self, user: str, what: str, session: str, gateway: str, socket: str) -> None:
        # The socket is part of the id: a session that moved has joined twice, a request tried again has not.
        self._recorder.record(
            subjects.event_user(user, what),
            f"{what} {session} {gateway} {socket}",
            {"userId": user, "sessionId": session, "gateway": gateway, "at": now_ms()},
        )
