"""Forward each command to the call's owner, the instance that its relays go through, and run one command at a time.

So all that clients receive about a call is sent by one instance, in the order of its transitions. Ownership is not what
keeps calls correct: if the owner is out of reach, any other instance runs the command, and compare-and-set decides
between the two.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from services.callcore.state.model import CallInput, Outcome
from shared.contracts.call_records import CallCommand, CommandResult
from shared.contracts.calls import InitiateReply, InitiateRequest
from shared.contracts.rpc import Request
from shared.contracts.wire import Wire
from shared.errors import Unavailable
from shared.messaging import time_budget
from shared.messaging.rpc import RpcClient
from shared.observability import logs

log = logs.get(__name__)

SERVICE = "calls"

R = TypeVar("R", bound=Wire)


def input_of(command: CallCommand) -> CallInput:
    """Return the input of the call machine that ``command`` carries."""
    return CallInput(
        command.kind, command.request_id, command.user, command.at, command.reason, command.resumed
    )


class CallOwner:
    """Finds the owner of a call, forwards commands to it, and serialises the commands of a call on this instance.

    ``owner_of``: returns the owner of a call id, ``None`` if no instance is known.
    """

    def __init__(self, instance: str, owner_of: Callable[[str], str | None], client: RpcClient) -> None:
        self._instance = instance
        self._owner_of = owner_of
        self._client = client
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, call: str) -> asyncio.Lock:
        """Return the lock that is held while a transition of the call is decided, stored and sent."""
        lock = self._locks.get(call)
        if lock is None:
            lock = self._locks[call] = asyncio.Lock()
        return lock

    def _other_owner(self, call: str) -> str | None:
        owner = self._owner_of(call)
        return owner if owner != self._instance else None

    async def forward(
        self, call: str, call_input: CallInput, *, initiated: bool, expires_at: int = 0
    ) -> Outcome | None:
        """Have the owner apply an input; ``None`` if this instance is the owner, or the owner is out of reach.

        ``expires_at``: when the requester stops waiting (ms, 0 for never). Enough of that time is left on return to
        apply the input here.
        """
        owner = self._other_owner(call)
        if owner is None:
            return None
        command = CallCommand(
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
            done = await self._request(owner, "happen", command, CommandResult, expires_at)
        except Unavailable:
            log.warning("applying here: the owner does not answer", call=call, callcore=owner)
            return None
        return Outcome(done.call, relay_to=done.relay_to)

    async def forward_initiate(self, request: InitiateRequest) -> InitiateReply | None:
        """Have the owner set up a call; ``None`` as for :meth:`forward`, and for a repeated request."""
        owner = self._other_owner(request.call)
        if owner is None or request.attempt > 1:
            return None
        try:
            return await self._request(owner, "initiate", request, InitiateReply, request.expires_at)
        except Unavailable:
            log.warning("applying here: the owner does not answer", call=request.call, callcore=owner)
            return None

    async def _request(self, owner: str, verb: str, request: Request, reply: type[R], expires_at: int) -> R:
        # A command without a requester must not wait long either: relays, or the next deadline, queue behind it.
        timeout = time_budget.share(expires_at, time_budget.INNER * self._client.timeout)
        return await self._client.ask(SERVICE, verb, request, reply, at=owner, timeout=timeout)
