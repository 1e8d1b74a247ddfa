"""The sweep: what nobody comes back for. It finds nothing as long as nothing dies at the wrong moment.

Each instance looks at the calls it is in charge of. A call that rings past its deadline times out; a call whose
bound session is gone ends as ``connection_lost``; a hold whose call is over, or never came about, is released.
"""

import asyncio
from collections.abc import Callable

from services.callcore.control import Control
from services.callcore.model import Address, Call, Happening, Kind, Reason, State
from services.callcore.store import Store
from shared import logs, subjects
from shared.clock import now_ms
from shared.errors import SignallingError
from shared.ids import new_id

log = logs.get(__name__)

LATE_MS = 2_000
"""How long what is about to be done by others is left to them."""


class Sweep:
    """Looks every ``seconds``. ``mine``: whether this instance is in charge of an id."""

    def __init__(
        self, store: Store, control: Control, mine: Callable[[str], bool], *, seconds: float
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
        """Look at everything once."""
        calls = dict.fromkeys(self.calls, 0)
        for key in await self._store.keys():
            kind, id_ = subjects.parse_key(key)
            if not self._mine(id_):
                continue
            if kind == "call":
                state = await self._look_at_call(id_)
                if state in calls:
                    calls[state] += 1
            elif kind == "user":
                await self._look_at_hold(id_)
        self.calls = calls

    async def _look_at_call(self, id_: str) -> State:
        """The state in which it was found; ended, if it is not there any more."""
        found = await self._store.call(id_)
        if found is None:
            return State.ENDED
        call = found.call
        if call.state is State.RINGING and now_ms() > call.expires_at + LATE_MS:
            self.swept["deadline"] += 1
            log.warning("swept: rang past its deadline", call=id_)
            await self._control.time_out(id_)
        elif call.state is not State.ENDED:
            for user, at in self._bound(call):
                if all(s.session != at.session for s in await self._store.sessions(user, fresh=True)):
                    self.swept["session"] += 1
                    log.warning("swept: session is gone", call=id_, user=user, session=at.session)
                    lost = Happening(Kind.LEFT, new_id(), user, at, Reason.CONNECTION_LOST)
                    await self._control.happen(id_, lost)
                    break
        return call.state

    @staticmethod
    def _bound(call: Call) -> list[tuple[str, Address]]:
        bound = [(call.caller, call.caller_at)]
        return [*bound, (call.callee, call.callee_at)] if call.callee_at else bound

    async def _look_at_hold(self, user: str) -> None:
        held = await self._store.held(user)
        if held.hold is None:
            return
        found = await self._store.call(held.hold.call)
        if found is not None and now_ms() < (found.call.ended_at or 0) + LATE_MS:
            return  # whoever ended it is about to let the user go
        if await self._store.void(held.hold, now_ms()):
            self.swept["hold"] += 1
            log.warning("swept: hold without a call", user=user, call=held.hold.call)
            for held_by_it in (user, held.hold.peer):
                await self._store.let_go(held_by_it, held.hold.call)
