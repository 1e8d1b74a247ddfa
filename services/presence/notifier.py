"""Telling others what became of a user's sessions: old sockets, call control, the event stream, the log."""

from collections import Counter
from collections.abc import Awaitable, Callable

from services.presence.model import Joined
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import LeftRequest
from shared.contracts.events import UserEvent
from shared.contracts.presence import Session
from shared.contracts.rpc import Done
from shared.messaging import time_budget
from shared.messaging.event_log import EventLog
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from shared.observability import logs

log = logs.get(__name__)


class Notifier:
    """Safe to tell the same thing again: gateways ignore sockets they do not have, and records carry an id.

    ``concerned``: the id of the call that holds a user, or was ended by a request of this id (user, id).
    """

    def __init__(
        self,
        bus: Bus,
        event_log: EventLog,
        calls: RpcClient,
        concerned: Callable[[str, str], Awaitable[str | None]],
    ) -> None:
        self._bus = bus
        self._event_log = event_log
        self._calls = calls
        self._concerned = concerned
        self.told: Counter[str] = Counter()
        """What became of sessions: ``joined``, ``resumed``, ``lost``, ``left``."""

    def joined(self, user: str, joined: Joined) -> None:
        """A user joined; sockets that lost their session are told so. Raises :class:`shared.errors.Unavailable`."""
        for old in joined.displaced:
            self._bus.publish(
                subjects.control(old.gateway, old.session, subjects.REPLACED), old.socket.encode()
            )
            log.info("socket replaced", user=user, session=old.session, gateway=old.gateway)
        for old in joined.gone:
            self.left(user, old.session, old.gateway, old.socket)
        new = joined.session
        what = "resumed" if joined.continued else "joined"
        self._record(user, what, new.session, new.gateway, new.socket)
        # What EVENTS has all of is said only where somebody looks closely: there is one of it for each that comes.
        (log.info if joined.continued else log.debug)(
            what, user=user, session=new.session, gateway=new.gateway
        )

    def lost(self, user: str, session: Session) -> None:
        """The transport of a session broke."""
        self._record(user, "lost", session.session, session.gateway, session.socket)
        log.info("lost", user=user, session=session.session, gateway=session.gateway)

    def left(self, user: str, session: str, gateway: str, socket: str) -> None:
        """A session is gone from the socket it was at."""
        self._record(user, "left", session, gateway, socket)
        log.info("left", user=user, session=session, gateway=gateway)

    async def end_calls(
        self, user: str, session: str, gateway: str, reason: str, *, cause: str, expires_at: int = 0
    ) -> None:
        """Tell call control that a session is gone, if a call holds its user. ``cause``: the same when told again.

        ``expires_at``: when the asker stops waiting (ms, 0 for never); both tries end before that.
        Raises :class:`shared.errors.Unavailable` if call control could not be told.
        """
        if (call := await self._concerned(user, cause)) is not None:
            request = LeftRequest(
                request_id=cause, user=user, session=session, gateway=gateway, reason=reason, call=call
            )
            timeout = time_budget.share(expires_at, self._calls.timeout)
            await self._calls.ask("calls", "left", request, Done, timeout=timeout)

    def _record(self, user: str, what: str, session: str, gateway: str, socket: str) -> None:
        self.told[what] += 1
        # The socket is part of the id: a session that moved has joined twice, a request tried again has not.
        self._event_log.record(
            subjects.event_user(user, what),
            f"{what} {session} {gateway} {socket}",
            UserEvent(user_id=user, session_id=session, gateway=gateway, at=now_ms()),
        )
