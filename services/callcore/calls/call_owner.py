"""Who is in charge of a call: the instance that its relays go through also decides about it, one deed at a time.

So everything that a call makes clients hear leaves from one place, in the order in which it was decided. It is not
what keeps calls right: where the instance in charge is out of reach, any other does the deed, and compare-and-set
decides between the two.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from services.callcore.state.model import Address, Call, CallInput, InputKind, Outcome
from shared.contracts.calls import InitiateReply, InitiateRequest
from shared.contracts.rpc import Request
from shared.contracts.wire import CallId, Wire
from shared.errors import Unavailable
from shared.messaging import time_budget
from shared.messaging.rpc import RpcClient
from shared.observability import logs

log = logs.get(__name__)

SERVICE = "calls"

R = TypeVar("R", bound=Wire)


class CallCommand(Request):
    """``rpc.calls.happen.<callcore>``: something that happens to a call, to be done there. ``request_id`` is its cause.

    ``initiated``: whoever does it placed a call of their own and is told of this one as if it were that (glare).
    """

    call: CallId
    kind: InputKind
    user: str | None = None
    at: Address | None = None
    reason: str | None = None
    resumed: bool = False
    initiated: bool = False

    def call_input(self) -> CallInput:
        """What it is to the machine."""
        return CallInput(self.kind, self.request_id, self.user, self.at, self.reason, self.resumed)


class CommandResult(Wire):
    """What the deed made of the call, and where a relay that came with it goes."""

    call: Call
    relay_to: tuple[Address, ...] = ()


class CallOwner:
    """Knows the instance in charge, passes deeds on to it, and keeps the deeds of one call apart on this one."""

    def __init__(self, instance: str, owner: Callable[[str], str | None], client: RpcClient) -> None:
        self._instance = instance
        self._owner = owner
        self._client = client
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, call: str) -> asyncio.Lock:
        """Held by whoever decides about the call and tells of it."""
        lock = self._turns.get(call)
        if lock is None:
            lock = self._turns[call] = asyncio.Lock()
        return lock

    def _elsewhere(self, call: str) -> str | None:
        owner = self._owner(call)
        return owner if owner != self._instance else None

    async def pass_on(
        self, call: str, call_input: CallInput, *, initiated: bool, expires_at: int = 0
    ) -> Outcome | None:
        """Have it done by the instance in charge; ``None`` if that is this one, or is out of reach.

        ``expires_at``: when its asker stops waiting (ms, 0 for never); it is back in time for the deed to be done here.
        """
        there = self._elsewhere(call)
        if there is None:
            return None
        deed = CallCommand(
            request_id=call_input.cause,
            call=call,
            kind=call_input.kind,
            user=call_input.user,
            at=call_input.at,
            reason=call_input.reason,
            resumed=call_input.resumed,
            initiated=initiated,
        )
        try:
            done = await self._ask(there, "happen", deed, CommandResult, expires_at)
        except Unavailable:
            log.warning("done here: the instance in charge does not answer", call=call, callcore=there)
            return None
        return Outcome(done.call, relay_to=done.relay_to)

    async def pass_on_initiate(self, request: InitiateRequest) -> InitiateReply | None:
        """The same for a call that is yet to be placed."""
        there = self._elsewhere(request.call)
        if there is None or request.attempt > 1:
            return None
        try:
            return await self._ask(there, "initiate", request, InitiateReply, request.expires_at)
        except Unavailable:
            log.warning(
                "done here: the instance in charge does not answer", call=request.call, callcore=there
            )
            return None

    async def _ask(self, there: str, verb: str, request: Request, reply: type[R], expires_at: int) -> R:
        # What nobody waits for must not wait long either: a line of relays, or the next deadline, is behind it.
        timeout = time_budget.share(expires_at, time_budget.INNER * self._client.timeout)
        return await self._client.ask(SERVICE, verb, request, reply, at=there, timeout=timeout)
