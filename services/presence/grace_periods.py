"""Begin and end the grace periods of sessions whose transport broke."""

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
    """Sets and handles the deadlines of kind ``grace``, one for each lost session."""

    def __init__(self, bus: Bus, store: Store, notifier: Notifier, policy: SessionPolicy) -> None:
        self._bus = bus
        self._store = store
        self._notifier = notifier
        self._policy = policy
        self.in_grace = GraceGauge(policy.grace_ms)
        self.expired = 0
        """Sessions that were not resumed in time."""

    async def begin(
        self,
        user: str,
        session: str | None,
        gateway: str,
        socket: str | None = None,
        *,
        unheard: bool = False,
    ) -> bool:
        """Begin the grace period of a session if it still is at ``socket`` (any for ``None``) of ``gateway``.

        ``session``: ``None`` for the one that is there. ``unheard``: True if its client may not have received its
        token. Return True if the session is in its grace period. Raises :class:`shared.errors.Unavailable`.
        """
        now = now_ms()
        lost: Lost = await self._store.change(
            user,
            lambda record: model.lose(record, session, gateway, socket, now, unheard=unheard),
            before=self._set_deadline,
        )
        if lost.session is not None and lost.session.lost_at == now:
            self.in_grace.begun(now, now)
            self._notifier.lost(user, lost.session)
        return lost.session is not None

    def continued(self, *sessions: Session | None) -> None:
        """Count the end of the grace periods of these sessions, which were replaced or moved to another address."""
        now = now_ms()
        for session in sessions:
            if session is not None and session.lost_at is not None:
                self.in_grace.ended(session.lost_at, now)

    def _set_deadline(self, lost: Lost) -> PendingRequest[None]:
        # The deadline is written first: alone it does nothing, but a lost session without one stays for ever.
        assert lost.session is not None and lost.session.lost_at is not None and lost.record is not None
        over = lost.session.lost_at + self._policy.grace_ms
        return set_deadline(self._bus, subjects.GRACE, lost.session.session, over, lost.record.user.encode())

    async def due(self, session: str, payload: bytes) -> None:
        """Delete a session whose grace period has expired.

        Raises :class:`shared.errors.Unavailable` to be called again.
        """
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
            # It is deleted: the instance that did so may have died before it notified call control.
            await self._notifier.end_calls(user, session, "", CONNECTION_LOST, cause=f"grace {session}")
