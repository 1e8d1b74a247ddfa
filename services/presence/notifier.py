"""Notify old sockets, call control and EVENTS of changes to a user's sessions."""

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
    """Sends notifications. Each may be repeated: gateways ignore unknown sockets, and records carry an id.

    ``call_of``: (user, request id) → the call that reserves the user, or was ended by the request; ``None`` for none.
    """

    def __init__(
        self,
        bus: Bus,
        event_log: EventLog,
        calls: RpcClient,
        call_of: Callable[[str, str], Awaitable[str | None]],
    ) -> None:
        self._bus = bus
        self._event_log = event_log
        self._calls = calls
        self._call_of = call_of
        self.changes: Counter[str] = Counter()
        """Changes of sessions by kind: ``joined``, ``resumed``, ``lost``, ``left``."""

    def joined(self, user: str, joined: Joined) -> None:
        """Record a join, and notify the sockets that it replaced. Raises :class:`shared.errors.Unavailable`."""
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
        # A plain join is logged at debug level only: there is one for each client, and EVENTS has all of them.
        (log.info if joined.continued else log.debug)(
            what, user=user, session=new.session, gateway=new.gateway
        )

    def lost(self, user: str, session: Session) -> None:
        """Record that the transport of a session broke."""
        self._record(user, "lost", session.session, session.gateway, session.socket)
        log.info("lost", user=user, session=session.session, gateway=session.gateway)

    def left(self, user: str, session: str, gateway: str, socket: str) -> None:
        """Record that a session is gone."""
        self._record(user, "left", session, gateway, socket)
        log.info("left", user=user, session=session, gateway=gateway)

    async def end_calls(
        self, user: str, session: str, gateway: str, reason: str, *, cause: str, expires_at: int = 0
    ) -> None:
        """Notify call control that a session is gone, if a call reserves its user. ``cause``: the same when repeated.

        ``expires_at``: when the requester stops waiting (ms, 0 for never); both tries end before that.
        Raises :class:`shared.errors.Unavailable` if call control was not notified.
        """
        if (call := await self._call_of(user, cause)) is not None:
            request = LeftRequest(
                request_id=cause, user=user, session=session, gateway=gateway, reason=reason, call=call
            )
            timeout = time_budget.share(expires_at, self._calls.timeout)
            await self._calls.ask("calls", "left", request, Done, timeout=timeout)

    def _record(self, user: str, what: str, session: str, gateway: str, socket: str) -> None:
        self.changes[what] += 1
        # The socket is part of the id: a session that moved has joined twice, a request tried again has not.
        self._event_log.record(
            subjects.event_user(user, what),
            f"{what} {session} {gateway} {socket}",
            UserEvent(user_id=user, session_id=session, gateway=gateway, at=now_ms()),
        )
