"""The grace of a session whose transport broke: it begins, and it ends unless the session was continued meanwhile."""

from services.presence import model
from services.presence.grace_gauge import GraceGauge
from services.presence.model import Lost, SessionPolicy
from services.presence.notifier import Notifier
from services.presence.store import Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.presence import Session
from shared.contracts.wire import Reason
from shared.messaging.timers import set_deadline
from shared.nats.connection import Bus
from shared.nats.pending_requests import PendingRequest
from shared.observability import logs

log = logs.get(__name__)

CONNECTION_LOST: Reason = "connection_lost"


class GracePeriods:
    """Deadlines of kind ``grace``, one for each lost session."""

    def __init__(self, bus: Bus, store: Store, notifier: Notifier, policy: SessionPolicy) -> None:
        self._bus = bus
        self._store = store
        self._notifier = notifier
        self._policy = policy
        self.in_grace = GraceGauge(policy.grace_ms)
        self.expired = 0
        """Sessions that nobody continued in time."""

    async def begin(
        self,
        user: str,
        session: str | None,
        gateway: str,
        socket: str | None = None,
        *,
        unheard: bool = False,
    ) -> bool:
        """The transport of a session broke, if it still is at ``socket`` (any for ``None``) of ``gateway``.

        ``session``: ``None`` for the one that is there. ``unheard``: its client may not know of its token. Whether it
        is in its grace now. Raises :class:`shared.errors.Unavailable` if that is not certain.
        """
        now = now_ms()
        lost: Lost = await self._store.change(
            user,
            lambda record: model.lose(record, session, gateway, socket, now, unheard=unheard),
            before=self._set,
        )
        if lost.session is not None and lost.session.lost_at == now:
            self.in_grace.begun(now, now)
            self._notifier.lost(user, lost.session)
        return lost.session is not None

    def continued(self, *sessions: Session | None) -> None:
        """These were replaced by others, or by themselves at another address; those in their grace are no longer."""
        now = now_ms()
        for session in sessions:
            if session is not None and session.lost_at is not None:
                self.in_grace.ended(session.lost_at, now)

    def _set(self, lost: Lost) -> PendingRequest[None]:
        """The deadline goes first: without a lost session it does nothing; a lost session without it stays forever."""
        assert lost.session is not None and lost.session.lost_at is not None and lost.record is not None
        over = lost.session.lost_at + self._policy.grace_ms
        return set_deadline(self._bus, subjects.GRACE, lost.session.session, over, lost.record.user.encode())

    async def due(self, session: str, payload: bytes) -> None:
        """The deadline of a session has come. Raises :class:`shared.errors.Unavailable` to get it again."""
        user = payload.decode()
        expired = await self._store.change(
            user, lambda record: model.expire(record, session, self._policy, now_ms())
        )
        if expired.wait_until is not None:
            await set_deadline(self._bus, subjects.GRACE, session, expired.wait_until, payload)
        elif expired.session is not None:
            gone = expired.session
            self.expired += 1
            await self._store.forget(gone.gateway, session, user)
            self._notifier.left(user, session, gone.gateway, gone.socket)
            await self._notifier.end_calls(
                user, session, gone.gateway, CONNECTION_LOST, cause=f"grace {session}"
            )
        elif all(s.session != session for s in await self._store.sessions(user)):
            # It is gone already: whoever took it out may not have got round to telling call control.
            await self._notifier.end_calls(user, session, "", CONNECTION_LOST, cause=f"grace {session}")
