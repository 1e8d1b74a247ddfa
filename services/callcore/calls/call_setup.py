"""How a call comes about: both users are taken, or neither; and of two calls of one pair, one comes of it."""

import asyncio
from collections.abc import Awaitable, Callable

from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.call_service import CallService
from services.callcore.notify.notifier import Notifier
from services.callcore.state import actions
from services.callcore.state.model import Address, Call, CallInput, InputKind, Reason, State, Unanswered
from services.callcore.store import TRIES, Held, SetDeadline, Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import Hold, InitiateRequest
from shared.errors import (
    AlreadyInCall,
    CallNotFound,
    InvalidState,
    Late,
    NotAuthenticated,
    SignallingError,
    Unavailable,
    UserNotFound,
    UserUnavailable,
)
from shared.messaging import time_budget
from shared.messaging.policy_client import TIMEOUT_SECONDS as POLICY_SECONDS
from shared.messaging.policy_client import PolicyClient
from shared.messaging.rpc import TRIES as TRIES_OF_A_REQUEST
from shared.nats.kv import Conflict
from shared.observability import logs

log = logs.get(__name__)


class CallSetup:
    """Places calls. ``ring_timeout``: seconds until one that nobody answers ends.

    ``admit_ring``: admits a ring of the second user by the first, and counts it; returns what is known of earlier ones.
    It raises :class:`shared.errors.RateLimited`.
    """

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        control: CallService,
        call_owner: CallOwner,
        policy: PolicyClient,
        set_deadline: SetDeadline,
        admit_ring: Callable[[str, str], Awaitable[Unanswered]],
        *,
        ring_timeout: float,
    ) -> None:
        self._store = store
        self._control = control
        self._call_owner = call_owner
        self._policy = policy
        self._notifier = notifier
        self._set_deadline = set_deadline
        self._admit_ring = admit_ring
        self._ring_ms = int(ring_timeout * 1000)

    async def initiate(self, request: InitiateRequest) -> Call:
        """Place the call, or accept the one that the callee placed to the caller meanwhile (glare).

        Raises :class:`AlreadyInCall`, :class:`UserNotFound`, :class:`UserUnavailable`,
        :class:`shared.errors.RateLimited`, :class:`Late`. Whatever is raised, what this try has taken is given back.
        The exception is what an earlier try took before: a later one, or the request to settle it, gives that back.
        """
        allowed: bool | None = None
        unanswered: Unanswered | None = None
        for attempt in range(TRIES):
            mine, theirs, sessions = await asyncio.gather(
                self._store.held(request.user),
                self._store.held(request.to),
                self._store.sessions(request.to, fresh=False),
            )
            try:
                if (done := await self._begun_elsewhere(request, mine, theirs)) is not None:
                    return done
                if request.settle:
                    if _held_for(request, mine, theirs):
                        await self._abandon(request)
                    return await self._settle(request, _hold_of_pair(request, mine, theirs))
                _in_time(request)
                if not await self._free(mine, request, pair=request.to):
                    raise AlreadyInCall
                if (hold := _hold_of_pair(request, mine, theirs)) is not None:
                    return await self._answer_glare(request, hold)
                if allowed is None:
                    # Asked about users that are not there, too: a refusal takes as long as they do.
                    allowed = await self._policy.may_call(
                        request.user, request.to, within=time_budget.share(request.expires_at, POLICY_SECONDS)
                    )
                if not (allowed and sessions):
                    # Any replica was asked, and may not have heard of somebody who has just joined.
                    sessions = await self._store.sessions(request.to, fresh=True)
                if not (allowed and sessions):
                    raise UserNotFound
                if not await self._free(theirs, request):
                    raise UserUnavailable
                if unanswered is None:
                    # Last, so that only what would ring counts, and nobody learns by it of whom he may not call.
                    unanswered = await self._admit_ring(request.user, request.to)
                return await self._reserve(request, mine, theirs, unanswered)
            except (Conflict, _Forming):
                await self._store.lost_race(attempt)
            except SignallingError as error:
                last = _held_for(request, mine, theirs) and _is_final(request, error)
                if not last or await self._abandon(request):
                    raise
                # The last write of an earlier try came after this one had looked: the call has come about.
        raise Unavailable

    async def _abandon(self, request: InitiateRequest) -> bool:
        """Have nobody go on with what an earlier try of the request has left. Return false if its call lives."""
        hold = Hold(call=request.call, peer=request.to, since=now_ms())
        return await self._store.abandon(request.user, hold, now_ms())

    async def _begun_elsewhere(self, request: InitiateRequest, mine: Held, theirs: Held) -> Call | None:
        """The call, if this very request brought it about elsewhere and only its answer did not arrive."""
        if not _held_for(request, mine, theirs):
            return None
        found = await self._store.call(request.call)
        if found is None:
            return None  # it stopped half-way; go on from there
        _not_abandoned(found.call)
        if found.call.state is State.RINGING and found.call.caused_by == request.request_id:
            place = actions.place(found.call)
            self._notifier.tell(place, found.revision, what="initiated", expires_at=request.expires_at)
        return found.call

    async def _settle(self, request: InitiateRequest, hold: Hold | None) -> Call:
        """A request that nobody waits for any more: if it has accepted the peer's call (glare), that is told again."""
        if hold is None:
            raise CallNotFound(call_id=request.call)
        call_input = CallInput(InputKind.ACCEPT, request.request_id, request.user, _address(request))
        outcome = await self._control.happen(
            hold.call, call_input, expires_at=request.expires_at, initiated=True, settle=True
        )
        return outcome.call

    async def _free(self, held: Held, request: InitiateRequest, *, pair: str | None = None) -> bool:
        """Whether the user can be taken for ``request``, or is held for a call with ``pair``.

        Raises ``_Forming`` where that is being decided this moment.
        """
        if held.hold is None or held.hold.call == request.call or held.hold.peer == pair:
            return True
        found = await self._store.call(held.hold.call)
        if found is not None:
            return found.call.state is State.ENDED
        if await self._store.void(held.hold, now_ms()):
            return True
        raise _Forming

    async def _answer_glare(self, request: InitiateRequest, hold: Hold) -> Call:
        """The pair is held already: by a call of the callee's, which this request accepts, or by one of our own."""
        found = await self._store.call(hold.call)
        if found is None or found.call.state is State.ENDED:
            if await self._store.void(hold, now_ms()):
                for user in (request.user, request.to):
                    await self._store.let_go(user, hold.call)
            raise _Forming
        call = found.call
        if call.caused_by != request.request_id and (
            call.caller != request.to or call.state is not State.RINGING
        ):
            raise AlreadyInCall
        call_input = CallInput(InputKind.ACCEPT, request.request_id, request.user, _address(request))
        try:
            outcome = await self._control.happen(
                call.call,
                call_input,
                expires_at=request.expires_at,
                attempt=request.attempt,
                initiated=True,
            )
        except (InvalidState, CallNotFound):
            raise _Forming from None  # something else happened to it first
        return outcome.call

    async def _reserve(
        self, request: InitiateRequest, mine: Held, theirs: Held, unanswered: Unanswered
    ) -> Call:
        """Take both users, in the order of their keys, then create the call. All or nothing."""
        _in_time(request)
        since = now_ms()
        wanted = sorted(
            ((request.user, request.to, mine), (request.to, request.user, theirs)), key=_key_order
        )
        again, created = _held_for(request, mine, theirs), False
        taken: dict[str, int] = {}
        try:
            # Sent together, and taken by the server in this order. A hold that an earlier try of this request left is
            # taken anew: that fences the earlier try off.
            revisions = await asyncio.gather(
                *(
                    self._store.hold(user, Hold(call=request.call, peer=peer, since=since), held.revision)
                    for user, peer, held in wanted
                ),
                return_exceptions=True,
            )
            failed = next((result for result in revisions if isinstance(result, BaseException)), None)
            taken = {
                user: revision
                for (user, _, _), revision in zip(wanted, revisions, strict=True)
                if isinstance(revision, int)
            }
            if failed is not None:
                raise failed
            holds = (taken[request.user], taken[request.to])
            call = await self._form(request, since, holds, unanswered)
            async with self._call_owner.turn(call.call):
                _in_time(request)
                created = True
                return await self._bring_about(call, request)
        except (Conflict, SignallingError):
            # Not if the call may have come about; nor if an earlier try may be creating it at this moment.
            if not (created or again):
                await self._store.give_back(taken)
            raise

    async def _form(
        self, request: InitiateRequest, since: int, holds: tuple[int, int], unanswered: Unanswered
    ) -> Call:
        # Read after the holds are written: a device that joins now either is in this answer or sees its user held.
        mine, theirs = await asyncio.gather(
            self._store.sessions(request.user, fresh=True), self._store.sessions(request.to, fresh=True)
        )
        if not theirs:
            raise UserNotFound
        if all(session.session != request.session for session in mine):
            raise NotAuthenticated
        return Call(
            call=request.call,
            state=State.RINGING,
            caller=request.user,
            callee=request.to,
            caller_at=_address(request),
            ringing=tuple(Address(session=s.session, gateway=s.gateway) for s in theirs),
            call_type=request.call_type,
            metadata=request.metadata,
            created_at=since,
            expires_at=since + self._ring_ms,
            caused_by=request.request_id,
            holds=holds,
            unanswered=unanswered,
        )

    async def _bring_about(self, call: Call, request: InitiateRequest) -> Call:
        # The deadline goes first, on the same connection: one without a call does nothing, a call without one rings on.
        deadline, creation = self._set_deadline(call), self._store.create(call)
        _, revision = await asyncio.gather(deadline, creation, return_exceptions=True)
        if isinstance(revision, Conflict):
            # An earlier try of this request got here first; or it was given up.
            found = await self._store.call(call.call)
            if found is None or found.call.state is State.ENDED:
                await self._store.let_both_go(call)
                if found is None:
                    raise Unavailable
                _not_abandoned(found.call)
                return found.call
            call, revision = found
        elif isinstance(revision, BaseException):
            raise revision
        else:
            self._control.counts.placed(call)
        self._notifier.tell(actions.place(call), revision, what="initiated", expires_at=request.expires_at)
        return call


class _Forming(Exception):
    """Somebody else is about to decide; look again in a moment."""


def _address(request: InitiateRequest) -> Address:
    return Address(session=request.session, gateway=request.gateway)


def _key_order(want: tuple[str, str, Held]) -> str:
    return subjects.key_user(want[0])


def _hold_of_pair(request: InitiateRequest, mine: Held, theirs: Held) -> Hold | None:
    """The hold of a call between exactly these two that is not this request's own."""
    for held, peer in ((mine, request.to), (theirs, request.user)):
        if held.hold is not None and held.hold.peer == peer and held.hold.call != request.call:
            return held.hold
    return None


def _held_for(request: InitiateRequest, mine: Held, theirs: Held) -> bool:
    """Return whether an earlier try of the request has taken one of the two."""
    return any(held.hold is not None and held.hold.call == request.call for held in (mine, theirs))


def _is_final(request: InitiateRequest, error: SignallingError) -> bool:
    """Return whether no other try of the request follows: it is refused, or this is the last one."""
    last = request.settle or request.attempt >= TRIES_OF_A_REQUEST
    return last or not isinstance(error, Unavailable)


def _not_abandoned(call: Call) -> None:
    """Raise :class:`Unavailable` for a call that cannot come about any more, and of which nobody was told."""
    if call.reason == Reason.VOID:
        raise Unavailable


def _in_time(request: InitiateRequest) -> None:
    """Stop a try that was overtaken: after ``expires_at`` the same request is being done elsewhere."""
    if time_budget.is_over(request.expires_at):
        log.warning("initiate stopped: out of time", call=request.call)
        raise Late
