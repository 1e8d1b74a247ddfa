"""The deeds of call control: read a call, let the machine decide, store by compare-and-set, tell everybody."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from services.callcore import machine
from services.callcore.model import Address, Call, Happening, Kind, Outcome, Reason, Send, State
from services.callcore.store import Found, Held, Store
from shared import logs, subjects
from shared.clock import now_ms
from shared.contracts.calls import Hold, InitiateRequest
from shared.contracts.client import Event, Initiated
from shared.errors import AlreadyInCall, CallNotFound, NotAuthenticated, Unavailable, UserNotFound, UserUnavailable
from shared.events import Recorder
from shared.kv import Conflict
from shared.mailbox import Postman

log = logs.get(__name__)

TRIES = 40
"""Lost races and waits for a call that is being formed, before the client is told to try again."""
BACKOFF_SECONDS = 0.004
BACKOFF_MAX_SECONDS = 0.1


class Announce(Protocol):
    """Tells the callcore in charge of a call's relays what the call has become; ``born``: just now."""

    async def __call__(self, call: Call, revision: int, *, born: bool = False) -> None: ...  # noqa: D102


SetDeadline = Callable[[Call], Awaitable[None]]


class Control:
    """Everything that changes a call goes through here, whoever asked for it."""

    def __init__(
        self,
        store: Store,
        postman: Postman,
        recorder: Recorder,
        announce: Announce,
        set_deadline: SetDeadline,
        *,
        ring_timeout: float,
    ) -> None:
        self._store = store
        self._postman = postman
        self._recorder = recorder
        self._announce = announce
        self._set_deadline = set_deadline
        self._ring_ms = int(ring_timeout * 1000)

    # --- a call comes about -----------------------------------------------------------------------------------------

    async def initiate(self, request: InitiateRequest) -> Call:
        """Place the call, or accept the one that the callee placed to the caller meanwhile (glare).

        Raises :class:`AlreadyInCall`, :class:`UserNotFound`, :class:`UserUnavailable`.
        """
        for attempt in range(TRIES):
            mine, theirs, sessions = await asyncio.gather(
                self._store.held(request.user),
                self._store.held(request.to),
                self._store.sessions(request.to, fresh=False),
            )
            try:
                if (done := await self._begun_elsewhere(request, mine, theirs)) is not None:
                    return done
                if not await self._free(mine, request, pair=request.to):
                    raise AlreadyInCall
                if (hold := _hold_of_pair(request, mine, theirs)) is not None:
                    return await self._answer_glare(request, hold)
                if not sessions:
                    raise UserNotFound
                if not await self._free(theirs, request):
                    raise UserUnavailable
                return await self._reserve(request, mine, theirs)
            except (Conflict, _Forming):
                await _back_off(attempt)
        raise Unavailable

    async def _begun_elsewhere(self, request: InitiateRequest, mine: Held, theirs: Held) -> Call | None:
        """The call, if this very request brought it about elsewhere and only its answer did not arrive."""
        if not any(held.hold is not None and held.hold.call == request.call for held in (mine, theirs)):
            return None
        found = await self._store.call(request.call)
        if found is None:
            return None  # it stopped half-way; go on from there
        if found.call.state is State.RINGING and found.call.caused_by == request.request_id:
            place = machine.place(found.call)
            await self._tell(place, found.revision, what="initiated", expires_at=request.expires_at)
        return found.call

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
        at = Address(session=request.session, gateway=request.gateway)
        happening = Happening(Kind.ACCEPT, request.request_id, request.user, at)
        if found.call.caused_by == request.request_id:
            outcome, revision = machine.again(found.call, happening), found.revision
        elif found.call.caller == request.to and found.call.state is State.RINGING:
            outcome = machine.step(found.call, happening, now_ms())
            revision = await self._store.update(outcome.call, found.revision)
        else:
            raise AlreadyInCall
        call = outcome.call
        told = Initiated(call_id=call.call, to=request.to, expires_at=call.expires_at)
        both = Outcome(call, (Send(at, Event.INITIATED, told), *outcome.sends))
        await self._tell(both, revision, what="accepted", expires_at=request.expires_at)
        return call

    async def _reserve(self, request: InitiateRequest, mine: Held, theirs: Held) -> Call:
        """Take both users, in the order of their keys, then create the call. All or nothing."""
        since = now_ms()
        wanted = sorted(((request.user, request.to, mine), (request.to, request.user, theirs)), key=_key_order)
        taken: dict[str, int] = {}
        try:
            for user, peer, held in wanted:
                _in_time(request)
                if held.hold is not None and held.hold.call == request.call:
                    taken[user] = held.revision
                    continue
                hold = Hold(call=request.call, peer=peer, since=since)
                taken[user] = await self._store.hold(user, hold, held.revision)
            return await self._create(request, since, (taken[request.user], taken[request.to]))
        except (Conflict, UserNotFound, NotAuthenticated):
            await asyncio.gather(*(self._store.release(user, revision) for user, revision in taken.items()))
            raise

    async def _create(self, request: InitiateRequest, since: int, holds: tuple[int, int]) -> Call:
        # Read after the holds are written: a device that joins now either is in this answer or sees its user held.
        mine, theirs = await asyncio.gather(
            self._store.sessions(request.user, fresh=True), self._store.sessions(request.to, fresh=True)
        )
        if not theirs:
            raise UserNotFound
        if all(session.session != request.session for session in mine):
            raise NotAuthenticated
        call = Call(
            call=request.call,
            state=State.RINGING,
            caller=request.user,
            callee=request.to,
            caller_at=Address(session=request.session, gateway=request.gateway),
            ringing=tuple(Address(session=s.session, gateway=s.gateway) for s in theirs),
            call_type=request.call_type,
            metadata=request.metadata,
            created_at=since,
            expires_at=since + self._ring_ms,
            caused_by=request.request_id,
            holds=holds,
        )
        _in_time(request)
        # The deadline goes first, on the same connection: one without a call does nothing, a call without one rings on.
        deadline = asyncio.create_task(self._set_deadline(call))
        await asyncio.sleep(0)
        try:
            revision = await self._store.create(call)
        except Conflict:
            found = await self._store.call(call.call)
            if found is None or found.call.state is State.ENDED:
                raise
            return found.call  # the same request, tried again elsewhere, was faster and has told everybody
        finally:
            await asyncio.gather(deadline, return_exceptions=True)
        await self._tell(machine.place(call), revision, what="initiated", expires_at=request.expires_at)
        return call

    # --- something happens to a call -----------------------------------------------------------------------------------

    async def happen(self, call_id: str, happening: Happening, *, expires_at: int = 0) -> Outcome:
        """Let ``happening`` happen to the call. Of two at once, one is first and the other meets what it made.

        ``expires_at``: when the asker stops waiting (ms); later, nobody is told, for the asker has asked elsewhere.
        Raises the refusal that the table names, :class:`CallNotFound` for an unknown call.
        """
        for attempt in range(TRIES):
            found = await self._store.call(call_id)
            if found is None:
                raise CallNotFound(call_id=call_id)
            if found.call.caused_by == happening.cause:
                return await self._repeat(found, happening, expires_at)
            outcome = machine.step(found.call, happening, now_ms())
            if outcome.call is found.call:
                return outcome
            try:
                revision = await self._store.update(outcome.call, found.revision)
            except Conflict:
                await _back_off(attempt)
                continue
            await self._tell(outcome, revision, what=_what(outcome.call, happening), expires_at=expires_at)
            return outcome
        raise Unavailable

    async def _repeat(self, found: Found, happening: Happening, expires_at: int) -> Outcome:
        """A request tried again whose deed is done: what may not have been told is told."""
        call = found.call
        if call.state is State.ENDED:
            await self._store.let_both_go(call)
        log.info("request repeated", call=call.call, kind=str(happening.kind))
        outcome = machine.again(call, happening)
        await self._tell(outcome, found.revision, what=_what(call, happening), expires_at=expires_at)
        return outcome

    async def happen_to_user(self, happening: Happening, *, expires_at: int = 0) -> None:
        """Let something happen to the call that holds ``happening.user``, if there is one."""
        assert happening.user is not None
        for attempt in range(TRIES):
            held = await self._store.held(happening.user)
            if held.hold is None:
                return
            try:
                await self.happen(held.hold.call, happening, expires_at=expires_at)
            except CallNotFound:
                if await self._store.void(held.hold, now_ms()):
                    await self._store.let_go(happening.user, held.hold.call)
                    return
                await _back_off(attempt)  # the call is about to come about
                continue
            return
        raise Unavailable

    async def time_out(self, call: str) -> None:
        """The deadline of a call has come; nothing happens if it was answered or is over."""
        try:
            await self.happen(call, Happening(Kind.TIMEOUT, f"timeout {call}"))
        except CallNotFound:
            log.debug("deadline without a call", call=call)

    async def find(self, user: str, to: str) -> str | None:
        """The id of the call between two users; ``None`` if there is none."""
        held = await self._store.held(user)
        return held.hold.call if held.hold is not None and held.hold.peer == to else None

    # --- telling --------------------------------------------------------------------------------------------------

    async def _tell(self, outcome: Outcome, revision: int, *, what: str | None, expires_at: int) -> None:
        if expires_at and now_ms() > expires_at:
            log.warning("done too late to tell", call=outcome.call.call)
            return
        call = outcome.call
        # Whoever is told may send a relay at once, so the relaying instance learns first what the call has become.
        # The exception is a device that begins to ring: it gets the call before the offers that came earlier.
        rings_later = what is None and call.state is State.RINGING
        if not rings_later:
            await self._announce(call, revision, born=what == "initiated")
        for send in outcome.sends:
            await self._postman.deliver(send.to.gateway, send.to.session, send.event, send.payload.dump())
        if rings_later:
            await self._announce(call, revision)
        if what is not None:
            self._recorder.record(subjects.event_call(call.call, what), f"{call.call}.{what}", _summary(call))
            log.info("call " + what, call=call.call, caller=call.caller, callee=call.callee, reason=call.reason)


class _Forming(Exception):
    """Somebody else is about to decide; look again in a moment."""


def _key_order(want: tuple[str, str, Held]) -> str:
    return subjects.key_user(want[0])


def _hold_of_pair(request: InitiateRequest, mine: Held, theirs: Held) -> Hold | None:
    """The hold of a call between exactly these two that is not this request's own."""
    for held, peer in ((mine, request.to), (theirs, request.user)):
        if held.hold is not None and held.hold.peer == peer and held.hold.call != request.call:
            return held.hold
    return None


def _in_time(request: InitiateRequest) -> None:
    """Stop a try that was overtaken: after ``expires_at`` the same request is being done elsewhere."""
    if request.expires_at and now_ms() > request.expires_at:
        log.warning("initiate stopped: out of time", call=request.call)
        raise Unavailable


def _what(call: Call, happening: Happening) -> str | None:
    """The name of the event that a transition is; ``None`` for a mere change of address."""
    if call.state is State.ENDED:
        return "rejected" if happening.kind is Kind.REJECT else "ended"
    if call.state is State.ACCEPTED and happening.kind in (Kind.ACCEPT, Kind.ANSWER):
        return "accepted"
    return None


def _summary(call: Call) -> dict[str, object]:
    """A call's life for EVENTS: who, what kind, when (ms), and how it ended. No metadata, no addresses."""
    summary = {
        "callId": call.call,
        "caller": call.caller,
        "callee": call.callee,
        "callType": call.call_type,
        "createdAt": call.created_at,
        "acceptedAt": call.accepted_at,
        "endedAt": call.ended_at,
        "by": call.ended_by,
        "reason": call.reason if call.reason != Reason.VOID else None,
    }
    return {key: value for key, value in summary.items() if value is not None}


async def _back_off(attempt: int) -> None:
    limit = min(BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2 ** min(attempt, 10))
    await asyncio.sleep(random.uniform(limit / 4, limit))  # noqa: S311 - jitter, not a secret
