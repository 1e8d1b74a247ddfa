"""Reconcile stored calls and reservations that a dead instance has left behind.

It finds nothing as long as no instance dies between two writes. Each instance checks the calls that it owns:

- a call that rings past its deadline times out;
- a call whose bound session is gone ends as ``connection_lost``;
- a reservation whose call has ended, or was never created, is released.

No client requested these ends, so none repeats the request if the instance dies before it has notified all sessions.
So the record says that a reconciler ended the call until all are notified; until then the next run notifies them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from services.callcore.calls.call_service import CallService
from services.callcore.state.model import Address, Call, CallInput, InputKind, Reason, State
from services.callcore.store import Found, Store
from shared import subjects
from shared.clock import now_ms
from shared.errors import CallNotFound
from shared.ids import new_id
from shared.nats.kv import Conflict
from shared.observability import logs
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

T = TypeVar("T")

_SWEPT = "sweep "
"""Begins the stored ``caused_by`` of a call that a reconciler ended, until all sessions are notified."""
_TOLD = "told "
"""Is put before it when they are."""

OVERDUE_MS = 2_000
"""Milliseconds after its time from which the work of another instance counts as abandoned."""
SECOND_CHECK_SECONDS = 2.0
"""Seconds between finding a session gone and checking again: presence deletes a session first and notifies then."""
CONCURRENCY = 8
"""Keys that are checked concurrently: reading together costs a third, and leaves capacity for clients."""


class Reconciler:
    """Reconciles every ``seconds``. ``owns``: returns True for the id of a call or user that this instance owns.

    ``overdue_ms``, ``second_check_seconds``: see :data:`OVERDUE_MS`, :data:`SECOND_CHECK_SECONDS`.
    """

    def __init__(
        self,
        store: Store,
        call_service: CallService,
        owns: Callable[[str], bool],
        *,
        seconds: float,
        second_check_seconds: float = SECOND_CHECK_SECONDS,
        overdue_ms: int = OVERDUE_MS,
    ) -> None:
        self._store = store
        self._call_service = call_service
        self._owns = owns
        self._second_check_seconds = second_check_seconds
        self._overdue_ms = overdue_ms
        self._ticks = PeriodicTask("reconciler", seconds, self.run_once)
        self.calls = dict.fromkeys((State.RINGING, State.ACCEPTED), 0)
        """Live calls that this instance owned in the last run."""
        self.repaired = dict.fromkeys(("deadline", "session", "hold"), 0)
        """Counts of repairs: a deadline missed, a session that is gone, a reservation without a call."""

    def start(self) -> None:
        """Start the periodic run."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop, also in the middle of a run."""
        await self._ticks.stop()

    async def run_once(self) -> None:
        """Check every call that this instance owns, then the reservations that none of the live calls has."""
        counts, reserved = dict.fromkeys(self.calls, 0), set[str]()
        owned: dict[str, list[str]] = {"call": [], "user": []}
        for key in await self._store.keys():
            kind, id_ = subjects.parse_key(key)
            if kind in owned and self._owns(id_):
                owned[kind].append(id_)

        orphaned: list[Found] = []

        async def check(id_: str) -> None:
            call = await self._check_call(id_, orphaned)
            if call is not None and call.state in counts:
                counts[call.state] += 1
                reserved.update((call.caller, call.callee))

        await _for_each(owned["call"], check)
        self.calls = counts
        if orphaned:
            await asyncio.sleep(self._second_check_seconds)
            await _for_each(orphaned, self._end_orphaned)
        await _for_each([user for user in owned["user"] if user not in reserved], self._check_reservation)

    async def _check_call(self, id_: str, orphaned: list[Found]) -> Call | None:
        """Return the call as read, ``None`` for an unknown one. Append it to ``orphaned`` if a session is gone."""
        found = await self._store.call(id_)
        if found is None:
            return None
        call = found.call
        if call.state is State.RINGING and now_ms() > call.expires_at + self._overdue_ms:
            self.repaired["deadline"] += 1
            log.warning("reconciled: rang past its deadline", call=id_)
            await self._call_service.time_out(id_, cause=_SWEPT + new_id())
            await self._mark_notified(id_)
        elif call.state is State.ENDED and call.caused_by.startswith(_SWEPT):
            await self._renotify(found)
        elif call.state is not State.ENDED and await self._missing_session(call) is not None:
            orphaned.append(found)
        return call

    async def _end_orphaned(self, orphaned: Found) -> None:
        """End a call of which a session is gone, unless the call has changed meanwhile."""
        call = orphaned.call
        found = await self._store.call(call.call)
        missing = await self._missing_session(call)
        if found is None or found.revision != orphaned.revision or missing is None:
            return
        user, at = missing
        self.repaired["session"] += 1
        log.warning("reconciled: session is gone", call=call.call, user=user, session=at.session)
        lost = CallInput(InputKind.LEFT, _SWEPT + new_id(), user, at, Reason.CONNECTION_LOST)
        await self._call_service.apply(call.call, lost)
        await self._mark_notified(call.call)

    async def _mark_notified(self, id_: str) -> None:
        """Store that all sessions are notified of the end of a call, if a reconciler ended it."""
        found = await self._store.call(id_)
        if found is not None and found.call.caused_by.startswith(_SWEPT):
            cause = _TOLD + found.call.caused_by
            with suppress(Conflict):  # it is gone, or another reconciler has stored it
                await self._store.rewrite(found.call.model_copy(update={"caused_by": cause}), found.revision)

    async def _renotify(self, ended: Found) -> None:
        """Notify the sessions of a call that a reconciler ended, whose instance seems to have died before it did."""
        log.warning("reconciled: an end that may not have been delivered", call=ended.call.call)
        try:
            call = await self._with_current_addresses(ended.call)
            await self._store.rewrite(call, ended.revision)
            by = call.ended_by
            if by in (call.caller, call.callee):
                at = call.caller_at if by == call.caller else call.callee_at
                event = CallInput(InputKind.LEFT, call.caused_by, by, at, Reason.CONNECTION_LOST)
            else:
                event = CallInput(InputKind.TIMEOUT, call.caused_by)
            await self._call_service.apply(call.call, event, settle=True)
        except (CallNotFound, Conflict):
            return  # another reconciler deals with it
        await self._mark_notified(call.call)

    async def _with_current_addresses(self, call: Call) -> Call:
        """Return an ended call with the current gateways of its sessions, which may have moved since the end."""
        sessions = [
            *await self._store.sessions(call.caller, fresh=True),
            *await self._store.sessions(call.callee, fresh=True),
        ]
        gateways = {session.session: session.gateway for session in sessions}

        def now(at: Address) -> Address:
            return Address(session=at.session, gateway=gateways.get(at.session, at.gateway))

        return call.model_copy(
            update={
                "caller_at": now(call.caller_at),
                "callee_at": now(call.callee_at) if call.callee_at is not None else None,
                "ringing": tuple(now(at) for at in call.ringing),
            }
        )

    async def _missing_session(self, call: Call) -> tuple[str, Address] | None:
        """Return a bound session that is gone, with its user; ``None`` if all are there."""
        bound = [(call.caller, call.caller_at)]
        if call.callee_at is not None:
            bound.append((call.callee, call.callee_at))
        for user, at in bound:
            if all(s.session != at.session for s in await self._store.sessions(user, fresh=True)):
                return user, at
        return None

    async def _check_reservation(self, user: str) -> None:
        """Release a user whose reservation is void."""
        reservation = (await self._store.reservation(user)).reservation
        if reservation is None:
            return
        call, peer = reservation.call, reservation.peer
        found = await self._store.call(call)
        # A live call may end before it is read once more. The instance that ends it is about to release the user.
        if found is not None and (
            found.call.ended_at is None or now_ms() < found.call.ended_at + self._overdue_ms
        ):
            return
        if await self._store.confirm_void(reservation, now_ms()):
            released = [await self._store.release_from(reserved, call) for reserved in (user, peer)]
            if any(released):
                self.repaired["hold"] += 1
                log.warning("reconciled: reservation without a call", user=user, call=call)


async def _for_each(ids: Sequence[T], check: Callable[[T], Awaitable[None]]) -> None:
    """Check all of them, :data:`CONCURRENCY` at a time. Raises the first error, and stops then."""
    rest = iter(ids)

    async def work() -> None:
        for id_ in rest:
            await check(id_)

    workers = [asyncio.create_task(work()) for _ in range(min(CONCURRENCY, len(ids)))]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        raise
