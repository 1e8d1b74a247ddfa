"""Apply inputs to existing calls: read the call, step the machine, store by compare-and-set, notify the sessions."""

from collections.abc import Callable
from contextlib import suppress

from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.stats import CallStats
from services.callcore.notify.notifier import Notifier
from services.callcore.state import actions, machine
from services.callcore.state.model import Call, CallInput, InputKind, Outcome, State
from services.callcore.store import TRIES, Found, Store
from shared.clock import now_ms
from shared.errors import CallNotFound, Late, SignallingError, Unavailable
from shared.messaging import time_budget
from shared.nats.kv import Conflict
from shared.observability import logs, traces

log = logs.get(__name__)


class CallService:
    """Applies every input that changes an existing call, for requests, deadlines, relays and the reconciler.

    ``cached_call``: returns a call as this instance received it last, which saves a read if it is still current.
    ``cancel_ring_deadline``: called with the id of a call that stopped ringing before its deadline.
    ``record_ring``: called with each call that was answered, or ended unanswered, once that is stored.
    """

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        call_owner: CallOwner,
        cached_call: Callable[[str], Found | None],
        cancel_ring_deadline: Callable[[str], None],
        record_ring: Callable[[Call], None],
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._call_owner = call_owner
        self._cached_call = cached_call
        self._cancel_ring_deadline = cancel_ring_deadline
        self._record_ring = record_ring
        self.stats = CallStats()

    async def apply(
        self,
        call_id: str,
        call_input: CallInput,
        *,
        expires_at: int = 0,
        attempt: int = 1,
        initiated: bool = False,
        settle: bool = False,
    ) -> Outcome:
        """Apply an input to a call on its owner, or here if the owner does not answer.

        ``expires_at``: when the requester stops waiting (ms); after it nothing is done. Raises :class:`Late` then.
        ``attempt``: a repeated request is applied here, because the owner may be why it is repeated.
        ``initiated``: send the author ``call:initiated`` first, because their own call became this one.
        ``settle``: only redeliver the outcome of an input that was applied before; else raises :class:`CallNotFound`.
        Raises the refusal that the table names, :class:`CallNotFound` for an unknown call.
        """
        if settle:
            async with self._call_owner.lock(call_id):
                found = await self._store.call(call_id)
                if found is None or not _is_cause_of(found.call, call_input):
                    raise CallNotFound(call_id=call_id)
                return await self._redeliver(found, call_input, expires_at, initiated)
        done = None
        if attempt == 1:
            done = await self._call_owner.forward(
                call_id, call_input, initiated=initiated, expires_at=expires_at
            )
        if done is None:
            done = await self.apply_here(call_id, call_input, expires_at=expires_at, initiated=initiated)
        return done

    async def apply_here(
        self, call_id: str, call_input: CallInput, *, expires_at: int = 0, initiated: bool = False
    ) -> Outcome:
        """Apply an input on this instance. Of two concurrent inputs, the second sees the outcome of the first."""
        async with self._call_owner.lock(call_id):
            return await self._apply(call_id, call_input, expires_at, initiated)

    async def _apply(self, call_id: str, call_input: CallInput, expires_at: int, initiated: bool) -> Outcome:
        cached = self._cached_call(call_id)
        if cached is not None and not _is_cause_of(cached.call, call_input):
            outcome = await self._apply_cached(cached, call_input, expires_at, initiated)
            if outcome is not None:
                return outcome
        for attempt in range(TRIES):
            found = await self._store.call(call_id)
            if found is None:
                raise CallNotFound(call_id=call_id)
            if _is_cause_of(found.call, call_input):
                return await self._redeliver(found, call_input, expires_at, initiated)
            outcome = machine.step(found.call, call_input, now_ms())
            if outcome.call is found.call:
                return outcome
            try:
                return await self._commit(outcome, found, call_input, expires_at, initiated)
            except Conflict:
                await self._store.lost_race(attempt)
        raise Unavailable

    async def _apply_cached(
        self, cached: Found, call_input: CallInput, expires_at: int, initiated: bool
    ) -> Outcome | None:
        """Apply an input to a cached call; ``None`` if the call has to be read first.

        Only an outcome that compare-and-set confirms counts. A refusal, or no change, may come of an outdated call.
        """
        try:
            outcome = machine.step(cached.call, call_input, now_ms())
        except SignallingError:
            return None
        if outcome.call is cached.call:
            return None
        try:
            return await self._commit(outcome, cached, call_input, expires_at, initiated)
        except Conflict:
            return None

    async def _commit(
        self, outcome: Outcome, before: Found, call_input: CallInput, expires_at: int, initiated: bool
    ) -> Outcome:
        """Store the outcome if the call is still as ``before``, and notify. Raises :class:`Conflict`, :class:`Late`."""
        if time_budget.is_over(expires_at):
            raise Late
        revision = await self._store.update(outcome.call, before.revision)
        self.stats.count_transition(before.call.state, outcome.call)
        if initiated:
            outcome = actions.as_initiated(outcome, call_input)
        rang = before.call.state is State.RINGING and outcome.call.state is not State.RINGING
        try:
            self._notifier.notify(
                outcome, revision, event_name=_event_name(outcome.call, call_input), expires_at=expires_at
            )
        finally:  # also after Late: a repeated request finds the transition done and does not come here
            if rang and call_input.kind is not InputKind.TIMEOUT:
                self._cancel_ring_deadline(outcome.call.call)
            if rang:
                self._record_ring(outcome.call)
        return outcome

    async def _redeliver(
        self, found: Found, call_input: CallInput, expires_at: int, initiated: bool
    ) -> Outcome:
        """Send the outcome of a repeated request once more: its instance may have died before it sent all of it."""
        call = found.call
        if call.state is State.ENDED:
            await self._store.release_both(call)
        log.info("request repeated", call=call.call, kind=str(call_input.kind))
        outcome = machine.replay(call, call_input)
        if initiated:
            outcome = actions.as_initiated(outcome, call_input)
        self._notifier.notify(
            outcome, found.revision, event_name=_event_name(call, call_input), expires_at=expires_at
        )
        return outcome

    async def apply_to_user(
        self, call_input: CallInput, *, expires_at: int = 0, attempt: int = 1
    ) -> Outcome | None:
        """Apply an input to the call that reserves ``call_input.user``; ``None`` if there is none."""
        assert call_input.user is not None
        for lost in range(TRIES):
            entry = await self._store.reservation(call_input.user)
            if entry.reservation is None:
                if entry.released is not None and entry.released.cause == call_input.cause:
                    # Applied, and the user released; the instance may have died before it notified.
                    with suppress(CallNotFound):
                        await self.apply(entry.released.call, call_input, expires_at=expires_at, settle=True)
                return None
            call = entry.reservation.call
            try:
                return await self.apply(call, call_input, expires_at=expires_at, attempt=attempt)
            except CallNotFound:
                if await self._store.confirm_void(entry.reservation, now_ms()):
                    await self._store.release_from(call_input.user, call)
                    return None
                await self._store.lost_race(lost)  # the call is about to be created
        raise Unavailable

    async def time_out(self, call: str, *, cause: str | None = None) -> None:
        """End a call whose ring deadline has passed; does nothing if it was answered or has ended.

        ``cause``: the cause to store if it is not the deadline.
        """
        timeout = CallInput(InputKind.TIMEOUT, cause or f"timeout {call}")
        try:
            if traces.active is None:
                await self.apply(call, timeout)
            else:
                with traces.active.happening("ring timeout", call):
                    await self.apply(call, timeout)
        except CallNotFound:
            log.debug("deadline without a call", call=call)

    async def find(self, user: str, to: str) -> str | None:
        """Return the id of the call between two users; ``None`` if there is none."""
        entry = await self._store.reservation(user)
        return (
            entry.reservation.call if entry.reservation is not None and entry.reservation.peer == to else None
        )


def _is_cause_of(call: Call, call_input: CallInput) -> bool:
    """Return True if the last change of the call was made by this input."""
    return call_input.cause in (call.caused_by, call.moved_by)


def _event_name(call: Call, call_input: CallInput) -> str | None:
    """Return the name that EVENTS records a transition by; ``None`` for a mere change of address."""
    if call.state is State.ENDED:
        return "rejected" if call_input.kind is InputKind.REJECT else "ended"
    if call.state is State.ACCEPTED and call_input.kind in (InputKind.ACCEPT, InputKind.ANSWER):
        return "accepted"
    return None
