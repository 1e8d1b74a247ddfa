"""The sweep: what nobody comes back for. It finds nothing as long as nothing dies at the wrong moment.

Each instance looks at the calls it is in charge of. A call that rings past its deadline times out; a call whose
bound session is gone ends as ``connection_lost``; a hold whose call is over, or never came about, is released.

Nobody asked for these ends, so nobody tries again if the instance dies before it has told of one. So the record says
that a sweep ended the call until all have been told; until then, the next sweep of any instance in charge tells them.
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
from shared.errors import CallNotFound, SignallingError
from shared.ids import new_id
from shared.nats.kv import Conflict
from shared.observability import logs

log = logs.get(__name__)

T = TypeVar("T")

_SWEPT = "sweep "
"""Begins the ``caused_by`` of a call that a sweep has ended, until everybody has been told."""
_TOLD = "told "

LATE_MS = 2_000
"""How long what is about to be done by others is left to them."""
SECOND_LOOK_SECONDS = 2.0
"""How long after a session was found gone it is looked again: presence tells of it right after it has written it."""
AT_ONCE = 8
"""Keys that are looked at at the same time: what is read together costs a third, and leaves room for clients."""


class Reconciler:
    """Looks every ``seconds``. ``mine``: whether this instance is in charge of an id."""

    def __init__(
        self, store: Store, control: CallService, mine: Callable[[str], bool], *, seconds: float
    ) -> None:
        self._store = store
        self._control = control
        self._mine = mine
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self.calls = dict.fromkeys((State.RINGING, State.ACCEPTED), 0)
        """The calls that this instance was in charge of when it looked last."""
        self.swept = dict.fromkeys(("deadline", "session", "hold"), 0)
        """What was found left behind: a deadline missed, a session that is gone, a hold without a call."""

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="sweep")

    async def stop(self) -> None:
        """Stop, in the middle of a round if need be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.round()
            except SignallingError as error:
                log.warning("sweep put off", reason=str(error))
            except Exception:
                log.exception("sweep failed")

    async def round(self) -> None:
        """Look at everything once: at the calls, then at the holds that no call has that was found to live."""
        counts, held = dict.fromkeys(self.calls, 0), set[str]()
        mine: dict[str, list[str]] = {"call": [], "user": []}
        for key in await self._store.keys():
            kind, id_ = subjects.parse_key(key)
            if kind in mine and self._mine(id_):
                mine[kind].append(id_)

        deserted: list[Found] = []

        async def look(id_: str) -> None:
            call = await self._look_at_call(id_, deserted)
            if call is not None and call.state in counts:
                counts[call.state] += 1
                held.update((call.caller, call.callee))

        await _for_each(mine["call"], look)
        self.calls = counts
        if deserted:
            await asyncio.sleep(SECOND_LOOK_SECONDS)
            await _for_each(deserted, self._look_again)
        await _for_each([user for user in mine["user"] if user not in held], self._look_at_hold)

    async def _look_at_call(self, id_: str, deserted: list[Found]) -> Call | None:
        """The call as it was found; ``None``, if it is not there any more. One that seems deserted is noted."""
        found = await self._store.call(id_)
        if found is None:
            return None
        call = found.call
        if call.state is State.RINGING and now_ms() > call.expires_at + LATE_MS:
            self.swept["deadline"] += 1
            log.warning("swept: rang past its deadline", call=id_)
            await self._control.time_out(id_, cause=_SWEPT + new_id())
            await self._told(id_)
        elif call.state is State.ENDED and call.caused_by.startswith(_SWEPT):
            await self._tell_again(found)
        elif call.state is not State.ENDED and await self._gone(call) is not None:
            deserted.append(found)
        return call

    async def _look_again(self, deserted: Found) -> None:
        """End a call of which a session is gone, unless somebody has told of it meanwhile."""
        call = deserted.call
        found = await self._store.call(call.call)
        gone = await self._gone(call)
        if found is None or found.revision != deserted.revision or gone is None:
            return
        user, at = gone
        self.swept["session"] += 1
        log.warning("swept: session is gone", call=call.call, user=user, session=at.session)
        lost = CallInput(InputKind.LEFT, _SWEPT + new_id(), user, at, Reason.CONNECTION_LOST)
        await self._control.happen(call.call, lost)
        await self._told(call.call)

    async def _told(self, id_: str) -> None:
        """Note that everybody has been told of the end of a call, if a sweep has ended it."""
        found = await self._store.call(id_)
        if found is not None and found.call.caused_by.startswith(_SWEPT):
            cause = _TOLD + found.call.caused_by
            with suppress(Conflict):  # it is gone, or another sweep has noted it
                await self._store.rewrite(found.call.model_copy(update={"caused_by": cause}), found.revision)

    async def _tell_again(self, ended: Found) -> None:
        """Tell of a call that a sweep has ended, whose instance seems to have died before it had told everybody."""
        log.warning("swept: an end that may not have been told", call=ended.call.call)
        try:
            call = await self._where_it_is(ended.call)
            await self._store.rewrite(call, ended.revision)
            by = call.ended_by
            if by in (call.caller, call.callee):
                at = call.caller_at if by == call.caller else call.callee_at
                event = CallInput(InputKind.LEFT, call.caused_by, by, at, Reason.CONNECTION_LOST)
            else:
                event = CallInput(InputKind.TIMEOUT, call.caused_by)
            await self._control.happen(call.call, event, settle=True)
        except (CallNotFound, Conflict):
            return  # another sweep deals with it
        await self._told(call.call)

    async def _where_it_is(self, call: Call) -> Call:
        """Return an ended call with the addresses that its sessions have now: a move after the end is not in it."""
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

    async def _gone(self, call: Call) -> tuple[str, Address] | None:
        """A bound session that is gone, and whose it was; ``None`` if all are there."""
        bound = [(call.caller, call.caller_at)]
        if call.callee_at is not None:
            bound.append((call.callee, call.callee_at))
        for user, at in bound:
            if all(s.session != at.session for s in await self._store.sessions(user, fresh=True)):
                return user, at
        return None

    async def _look_at_hold(self, user: str) -> None:
        held = await self._store.held(user)
        if held.hold is None:
            return
        call, peer = held.hold.call, held.hold.peer
        found = await self._store.call(call)
        # One that lives may end before it is read once more. Whoever ends it is about to let the user go.
        if found is not None and (found.call.ended_at is None or now_ms() < found.call.ended_at + LATE_MS):
            return
        if await self._store.void(held.hold, now_ms()):
            released = [await self._store.let_go(held_by_it, call) for held_by_it in (user, peer)]
            if any(released):
                self.swept["hold"] += 1
                log.warning("swept: hold without a call", user=user, call=call)


async def _for_each(ids: Sequence[T], look: Callable[[T], Awaitable[None]]) -> None:
    """Look at all of them, a few at a time. Raises what the first look raises that fails, and looks no further."""
    rest = iter(ids)

    async def work() -> None:
        for id_ in rest:
            await look(id_)

    workers = [asyncio.create_task(work()) for _ in range(min(AT_ONCE, len(ids)))]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        raise
