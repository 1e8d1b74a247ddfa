"""What happens to a call: read it, let the machine decide, store by compare-and-set, tell everybody."""

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
    """Everything that changes an existing call goes through here, whoever asked for it.

    ``known``: a call as this instance last heard of it, which saves a read where it still is so.
    ``rings_no_more``: called with a call whose deadline is not needed any more.
    ``ring_over``: called with each call that was answered, or ended unanswered, once that is stored.
    """

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        call_owner: CallOwner,
        known: Callable[[str], Found | None],
        rings_no_more: Callable[[str], None],
        ring_over: Callable[[Call], None],
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._call_owner = call_owner
        self._known = known
        self._rings_no_more = rings_no_more
        self._ring_over = ring_over
        self.counts = CallStats()

    async def happen(
        self,
        call_id: str,
        call_input: CallInput,
        *,
        expires_at: int = 0,
        attempt: int = 1,
        initiated: bool = False,
        settle: bool = False,
    ) -> Outcome:
        """Let ``call_input`` happen to the call, on the instance in charge of it, or here if that does not answer.

        ``expires_at``: when the asker stops waiting (ms); later nothing is done. Raises :class:`Late` then.
        ``attempt``: a request that is tried again is done here, for the instance in charge may be why.
        ``initiated``: tell its author ``call:initiated`` first, for it is their own call that became this one.
        ``settle``: only tell what came of it if it has happened before; else raises :class:`CallNotFound`.
        Raises the refusal that the table names, :class:`CallNotFound` for an unknown call.
        """
        if settle:
            async with self._call_owner.turn(call_id):
                found = await self._store.call(call_id)
                if found is None or not _is_its_deed(found.call, call_input):
                    raise CallNotFound(call_id=call_id)
                return await self._repeat(found, call_input, expires_at, initiated)
        done = None
        if attempt == 1:
            done = await self._call_owner.pass_on(
                call_id, call_input, initiated=initiated, expires_at=expires_at
            )
        if done is None:
            done = await self.happen_here(call_id, call_input, expires_at=expires_at, initiated=initiated)
        return done

    async def happen_here(
        self, call_id: str, call_input: CallInput, *, expires_at: int = 0, initiated: bool = False
    ) -> Outcome:
        """The same on this instance. Of two at once, one is first and the other meets what it made."""
        async with self._call_owner.turn(call_id):
            return await self._happen(call_id, call_input, expires_at, initiated)

    async def _happen(self, call_id: str, call_input: CallInput, expires_at: int, initiated: bool) -> Outcome:
        known = self._known(call_id)
        if known is not None and not _is_its_deed(known.call, call_input):
            outcome = await self._happen_to(known, call_input, expires_at, initiated)
            if outcome is not None:
                return outcome
        for attempt in range(TRIES):
            found = await self._store.call(call_id)
            if found is None:
                raise CallNotFound(call_id=call_id)
            if _is_its_deed(found.call, call_input):
                return await self._repeat(found, call_input, expires_at, initiated)
            outcome = machine.step(found.call, call_input, now_ms())
            if outcome.call is found.call:
                return outcome
            try:
                return await self._become(outcome, found, call_input, expires_at, initiated)
            except Conflict:
                await self._store.lost_race(attempt)
        raise Unavailable

    async def _happen_to(
        self, known: Found, call_input: CallInput, expires_at: int, initiated: bool
    ) -> Outcome | None:
        """Let it happen to a call that may have changed meanwhile; ``None`` if only a read can tell.

        Only what compare-and-set confirms counts: that the table refuses it, or that nothing comes of it, does not.
        """
        try:
            outcome = machine.step(known.call, call_input, now_ms())
        except SignallingError:
            return None
        if outcome.call is known.call:
            return None
        try:
            return await self._become(outcome, known, call_input, expires_at, initiated)
        except Conflict:
            return None

    async def _become(
        self, outcome: Outcome, was: Found, call_input: CallInput, expires_at: int, initiated: bool
    ) -> Outcome:
        """Store what becomes of a call that still is what it ``was``, and tell everybody. Raises :class:`Conflict`."""
        if time_budget.is_over(expires_at):
            raise Late
        revision = await self._store.update(outcome.call, was.revision)
        self.counts.turned(was.call.state, outcome.call)
        if initiated:
            outcome = actions.as_initiated(outcome, call_input)
        rang = was.call.state is State.RINGING and outcome.call.state is not State.RINGING
        try:
            self._notifier.tell(
                outcome, revision, what=_what(outcome.call, call_input), expires_at=expires_at
            )
        finally:  # also if it was too late to tell: no other try makes the same of the call once more
            if rang and call_input.kind is not InputKind.TIMEOUT:
                self._rings_no_more(outcome.call.call)
            if rang:
                self._ring_over(outcome.call)
        return outcome

    async def _repeat(self, found: Found, call_input: CallInput, expires_at: int, initiated: bool) -> Outcome:
        """A request tried again whose deed is done: what may not have been told is told."""
        call = found.call
        if call.state is State.ENDED:
            await self._store.let_both_go(call)
        log.info("request repeated", call=call.call, kind=str(call_input.kind))
        outcome = machine.again(call, call_input)
        if initiated:
            outcome = actions.as_initiated(outcome, call_input)
        self._notifier.tell(outcome, found.revision, what=_what(call, call_input), expires_at=expires_at)
        return outcome

    async def happen_to_user(
        self, call_input: CallInput, *, expires_at: int = 0, attempt: int = 1
    ) -> Outcome | None:
        """Let something happen to the call that holds ``happening.user``; ``None`` if there is none."""
        assert call_input.user is not None
        for lost in range(TRIES):
            held = await self._store.held(call_input.user)
            if held.hold is None:
                if held.released is not None and held.released.cause == call_input.cause:
                    # It is done, and the user let go; whoever did it may not have got round to telling of it.
                    with suppress(CallNotFound):
                        await self.happen(held.released.call, call_input, expires_at=expires_at, settle=True)
                return None
            try:
                return await self.happen(held.hold.call, call_input, expires_at=expires_at, attempt=attempt)
            except CallNotFound:
                if await self._store.void(held.hold, now_ms()):
                    await self._store.let_go(call_input.user, held.hold.call)
                    return None
                await self._store.lost_race(lost)  # the call is about to come about
        raise Unavailable

    async def time_out(self, call: str, *, cause: str | None = None) -> None:
        """The deadline of a call has come; nothing happens if it was answered or is over.

        ``cause``: the id of this deed, if it is not that of the deadline.
        """
        timeout = CallInput(InputKind.TIMEOUT, cause or f"timeout {call}")
        try:
            if traces.active is None:
                await self.happen(call, timeout)
            else:
                with traces.active.happening("ring timeout", call):
                    await self.happen(call, timeout)
        except CallNotFound:
            log.debug("deadline without a call", call=call)

    async def find(self, user: str, to: str) -> str | None:
        """The id of the call between two users; ``None`` if there is none."""
        held = await self._store.held(user)
        return held.hold.call if held.hold is not None and held.hold.peer == to else None


def _is_its_deed(call: Call, call_input: CallInput) -> bool:
    """Return whether this very happening made the call what it is."""
    return call_input.cause in (call.caused_by, call.moved_by)


def _what(call: Call, call_input: CallInput) -> str | None:
    """The name of the event that a transition is; ``None`` for a mere change of address."""
    if call.state is State.ENDED:
        return "rejected" if call_input.kind is InputKind.REJECT else "ended"
    if call.state is State.ACCEPTED and call_input.kind in (InputKind.ACCEPT, InputKind.ANSWER):
        return "accepted"
    return None
