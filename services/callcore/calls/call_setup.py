"""Set up calls: reserve both users or neither, then create the call; merge two calls of one pair into one (glare)."""

import asyncio
from collections.abc import Awaitable, Callable

from services.callcore.calls.call_owner import CallOwner
from services.callcore.calls.call_service import CallService
from services.callcore.notify.notifier import Notifier
from services.callcore.state import actions
from services.callcore.state.model import Address, Call, CallInput, InputKind, Reason, State, Unanswered
from services.callcore.store import TRIES, ReservationEntry, SetDeadline, Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import InitiateRequest, Reservation
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
    """Sets up calls. ``ring_timeout``: seconds until an unanswered call ends.

    ``admit_ring``: admits a ring of the second user by the first, counts it, and returns the record of earlier rings.
    It raises :class:`shared.errors.RateLimited`.
    """

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        call_service: CallService,
        call_owner: CallOwner,
        policy: PolicyClient,
        set_deadline: SetDeadline,
        admit_ring: Callable[[str, str], Awaitable[Unanswered]],
        *,
        ring_timeout: float,
    ) -> None:
        self._store = store
        self._call_service = call_service
        self._call_owner = call_owner
        self._policy = policy
        self._notifier = notifier
        self._set_deadline = set_deadline
        self._admit_ring = admit_ring
        self._ring_ms = int(ring_timeout * 1000)

    async def initiate(self, request: InitiateRequest) -> Call:
        """Create the call, or accept the call that the callee set up to the caller meanwhile (glare).

        Raises :class:`AlreadyInCall`, :class:`UserNotFound`, :class:`UserUnavailable`,
        :class:`shared.errors.RateLimited`, :class:`Late`. After an error, the reservations of this try are released.
        Reservations of an earlier try are not: a later try, or the request to settle it, releases them.
        """
        allowed: bool | None = None
        unanswered: Unanswered | None = None
        for attempt in range(TRIES):
            mine, theirs, sessions = await asyncio.gather(
                self._store.reservation(request.user),
                self._store.reservation(request.to),
                self._store.sessions(request.to, fresh=False),
            )
            try:
                if (done := await self._created_earlier(request, mine, theirs)) is not None:
                    return done
                if request.settle:
                    if _reserved_by(request, mine, theirs):
                        await self._abandon(request)
                    return await self._settle(request, _reservation_of_pair(request, mine, theirs))
                _check_time(request)
                if not await self._is_free(mine, request, pair=request.to):
                    raise AlreadyInCall
                if (reservation := _reservation_of_pair(request, mine, theirs)) is not None:
                    return await self._answer_glare(request, reservation)
                if allowed is None:
                    # Asked about offline users, too: so a refusal takes as long as for them.
                    allowed = await self._policy.may_call(
                        request.user, request.to, within=time_budget.share(request.expires_at, POLICY_SECONDS)
                    )
                if not (allowed and sessions):
                    # The first read was of any replica, which may not have a session that has just joined.
                    sessions = await self._store.sessions(request.to, fresh=True)
                if not (allowed and sessions):
                    raise UserNotFound
                if not await self._is_free(theirs, request):
                    raise UserUnavailable
                if unanswered is None:
                    # Last, so that only rings count, and a refusal does not reveal to a caller who has blocked them.
                    unanswered = await self._admit_ring(request.user, request.to)
                return await self._reserve(request, mine, theirs, unanswered)
            except (Conflict, _Undecided):
                await self._store.lost_race(attempt)
            except SignallingError as error:
                last = _reserved_by(request, mine, theirs) and _is_final(request, error)
                if not last or await self._abandon(request):
                    raise
                # The last write of an earlier try came after this try had read: the call was created.
        raise Unavailable

    async def _abandon(self, request: InitiateRequest) -> bool:
        """Prevent the call of an earlier try of the request and release its users. Return False if the call lives."""
        reservation = Reservation(call=request.call, peer=request.to, since=now_ms())
        return await self._store.abandon(request.user, reservation, now_ms())

    async def _created_earlier(
        self, request: InitiateRequest, mine: ReservationEntry, theirs: ReservationEntry
    ) -> Call | None:
        """Return the call if an earlier try of this request created it and only its answer was lost."""
        if not _reserved_by(request, mine, theirs):
            return None
        found = await self._store.call(request.call)
        if found is None:
            return None  # the earlier try stopped before it created the call; continue from there
        _check_not_abandoned(found.call)
        if found.call.state is State.RINGING and found.call.caused_by == request.request_id:
            place = actions.place(found.call)
            self._notifier.notify(
                place, found.revision, event_name="initiated", expires_at=request.expires_at
            )
        return found.call

    async def _settle(self, request: InitiateRequest, reservation: Reservation | None) -> Call:
        """Redeliver what a request without a requester has done, if it accepted the peer's call (glare)."""
        if reservation is None:
            raise CallNotFound(call_id=request.call)
        call_input = CallInput(InputKind.ACCEPT, request.request_id, request.user, _address(request))
        outcome = await self._call_service.apply(
            reservation.call, call_input, expires_at=request.expires_at, initiated=True, settle=True
        )
        return outcome.call

    async def _is_free(
        self, entry: ReservationEntry, request: InitiateRequest, *, pair: str | None = None
    ) -> bool:
        """Return True if the user can be reserved for ``request``, or is reserved for a call with ``pair``.

        Raises ``_Undecided`` while another request decides that.
        """
        reservation = entry.reservation
        if reservation is None or reservation.call == request.call or reservation.peer == pair:
            return True
        found = await self._store.call(reservation.call)
        if found is not None:
            return found.call.state is State.ENDED
        if await self._store.confirm_void(reservation, now_ms()):
            return True
        raise _Undecided

    async def _answer_glare(self, request: InitiateRequest, reservation: Reservation) -> Call:
        """Accept the callee's call of a pair that is reserved already. Raises :class:`AlreadyInCall` for one's own."""
        found = await self._store.call(reservation.call)
        if found is None or found.call.state is State.ENDED:
            if await self._store.confirm_void(reservation, now_ms()):
                for user in (request.user, request.to):
                    await self._store.release_from(user, reservation.call)
            raise _Undecided
        call = found.call
        if call.caused_by != request.request_id and (
            call.caller != request.to or call.state is not State.RINGING
        ):
            raise AlreadyInCall
        call_input = CallInput(InputKind.ACCEPT, request.request_id, request.user, _address(request))
        try:
            outcome = await self._call_service.apply(
                call.call,
                call_input,
                expires_at=request.expires_at,
                attempt=request.attempt,
                initiated=True,
            )
        except (InvalidState, CallNotFound):
            raise _Undecided from None  # another input was applied first
        return outcome.call

    async def _reserve(
        self,
        request: InitiateRequest,
        mine: ReservationEntry,
        theirs: ReservationEntry,
        unanswered: Unanswered,
    ) -> Call:
        """Reserve both users, in the order of their keys, then create the call. All or nothing."""
        _check_time(request)
        since = now_ms()
        wanted = sorted(
            ((request.user, request.to, mine), (request.to, request.user, theirs)), key=_key_order
        )
        again, created = _reserved_by(request, mine, theirs), False
        taken: dict[str, int] = {}
        try:
            # Sent together, and applied by the server in this order. A reservation that an earlier try of this request
            # left is written anew: that fences the earlier try off.
            revisions = await asyncio.gather(
                *(
                    self._store.reserve(
                        user, Reservation(call=request.call, peer=peer, since=since), entry.revision
                    )
                    for user, peer, entry in wanted
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
            reserved_at = (taken[request.user], taken[request.to])
            call = await self._build(request, since, reserved_at, unanswered)
            async with self._call_owner.lock(call.call):
                _check_time(request)
                created = True
                return await self._create(call, request)
        except (Conflict, SignallingError):
            # Not if the call may have been created; nor if an earlier try may be creating it at this moment.
            if not (created or again):
                await self._store.release_all(taken)
            raise

    async def _build(
        self, request: InitiateRequest, since: int, reserved_at: tuple[int, int], unanswered: Unanswered
    ) -> Call:
        """Return the call to create. ``reserved_at``: revisions of the caller's and the callee's reservation."""
        # Read after the reservations: a device that joins now is in this read, or presence sees its user reserved.
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
            holds=reserved_at,
            unanswered=unanswered,
        )

    async def _create(self, call: Call, request: InitiateRequest) -> Call:
        # The deadline first, on the same connection: alone it does nothing, but a call without one rings for ever.
        deadline, creation = self._set_deadline(call), self._store.create(call)
        _, revision = await asyncio.gather(deadline, creation, return_exceptions=True)
        if isinstance(revision, Conflict):
            # An earlier try of this request created it; or the request was given up.
            found = await self._store.call(call.call)
            if found is None or found.call.state is State.ENDED:
                await self._store.release_both(call)
                if found is None:
                    raise Unavailable
                _check_not_abandoned(found.call)
                return found.call
            call, revision = found
        elif isinstance(revision, BaseException):
            raise revision
        else:
            self._call_service.stats.count_placed(call)
        self._notifier.notify(
            actions.place(call), revision, event_name="initiated", expires_at=request.expires_at
        )
        return call


class _Undecided(Exception):
    """Another request is about to decide; read again after a short wait."""


def _address(request: InitiateRequest) -> Address:
    return Address(session=request.session, gateway=request.gateway)


def _key_order(want: tuple[str, str, ReservationEntry]) -> str:
    return subjects.key_user(want[0])


def _reservation_of_pair(
    request: InitiateRequest, mine: ReservationEntry, theirs: ReservationEntry
) -> Reservation | None:
    """Return the reservation for another call between exactly these two users."""
    for entry, peer in ((mine, request.to), (theirs, request.user)):
        reservation = entry.reservation
        if reservation is not None and reservation.peer == peer and reservation.call != request.call:
            return reservation
    return None


def _reserved_by(request: InitiateRequest, mine: ReservationEntry, theirs: ReservationEntry) -> bool:
    """Return True if an earlier try of the request has reserved one of the two users."""
    return any(
        entry.reservation is not None and entry.reservation.call == request.call for entry in (mine, theirs)
    )


def _is_final(request: InitiateRequest, error: SignallingError) -> bool:
    """Return True if no other try of the request follows: it is refused, or this is the last one."""
    last = request.settle or request.attempt >= TRIES_OF_A_REQUEST
    return last or not isinstance(error, Unavailable)


def _check_not_abandoned(call: Call) -> None:
    """Raise :class:`Unavailable` for a tombstone: the call was given up before it was created."""
    if call.reason == Reason.VOID:
        raise Unavailable


def _check_time(request: InitiateRequest) -> None:
    """Raise :class:`Late` after ``expires_at``: the gateway has sent the request to another instance by then."""
    if time_budget.is_over(request.expires_at):
        log.warning("initiate stopped: out of time", call=request.call)
        raise Late
