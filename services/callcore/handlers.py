"""Requests to call control, a few lines each."""

from contextlib import suppress

from services.callcore.calls.call_owner import CallCommand, CallOwner, CommandResult
from services.callcore.calls.call_service import CallService
from services.callcore.calls.call_setup import CallSetup
from services.callcore.state.model import Address, CallInput, InputKind, Outcome
from shared.contracts.calls import (
    AcceptRequest,
    AttachedReply,
    AttachedRequest,
    ByClient,
    CallReply,
    EndRequest,
    FindRequest,
    InitiateReply,
    InitiateRequest,
    LeftRequest,
    RejectRequest,
)
from shared.contracts.rpc import Done
from shared.errors import CallNotFound, ReceiverNotFound
from shared.messaging.rpc import RpcServer


class Handlers:
    """One method a verb of ``rpc.calls.<verb>``."""

    def __init__(self, call_setup: CallSetup, control: CallService, call_owner: CallOwner) -> None:
        self._call_setup = call_setup
        self._control = control
        self._call_owner = call_owner

    async def register(self, server: RpcServer, instance: str) -> None:
        """Answer requests, to any instance and to this one by name."""
        await server.serve("calls", "initiate", InitiateRequest, self.initiate_here, at=instance)
        await server.serve("calls", "happen", CallCommand, self.happen_here, at=instance)
        await server.serve("calls", "initiate", InitiateRequest, self.initiate)
        await server.serve("calls", "accept", AcceptRequest, self.accept)
        await server.serve("calls", "reject", RejectRequest, self.reject)
        await server.serve("calls", "end", EndRequest, self.end)
        await server.serve("calls", "find", FindRequest, self.find)
        await server.serve("calls", "attached", AttachedRequest, self.attached)
        await server.serve("calls", "left", LeftRequest, self.left)

    async def initiate(self, request: InitiateRequest) -> InitiateReply:
        there = await self._call_owner.pass_on_initiate(request) if not request.settle else None
        return there or await self.initiate_here(request)

    async def happen_here(self, deed: CallCommand) -> CommandResult:
        outcome = await self._control.happen_here(
            deed.call, deed.call_input(), expires_at=deed.expires_at, initiated=deed.initiated
        )
        return CommandResult(call=outcome.call, relay_to=outcome.relay_to)

    async def initiate_here(self, request: InitiateRequest) -> InitiateReply:
        call = await self._call_setup.initiate(request)
        return InitiateReply(call=call.call, to=request.to, expires_at=call.expires_at)

    async def accept(self, request: AcceptRequest) -> CallReply:
        return await self._happen(request.call, request, InputKind.ACCEPT)

    async def reject(self, request: RejectRequest) -> CallReply:
        return await self._happen(request.call, request, InputKind.REJECT, request.reason)

    async def end(self, request: EndRequest) -> CallReply:
        return await self._happen(request.call, request, InputKind.END, request.reason)

    async def find(self, request: FindRequest) -> CallReply:
        call = await self._control.find(request.user, request.to)
        if call is None:
            raise ReceiverNotFound
        return CallReply(call=call)

    async def attached(self, request: AttachedRequest) -> AttachedReply:
        outcome = await self._happen_to_user(request, InputKind.ATTACHED, resumed=request.resumed)
        return AttachedReply(call=outcome.call.held_by(request.session) if outcome is not None else None)

    async def left(self, request: LeftRequest) -> Done:
        if request.attempt > 1 and request.call is not None:
            # The first try may have ended the call and died before it told anybody. Another call may hold the user by
            # now, so only the call itself can tell.
            call_input = _call_input(request, InputKind.LEFT, request.reason)
            with suppress(CallNotFound):
                await self._control.happen(
                    request.call, call_input, expires_at=request.expires_at, settle=True
                )
                return Done()
        await self._happen_to_user(request, InputKind.LEFT, request.reason)
        return Done()

    async def _happen(
        self, call: str, request: ByClient, kind: InputKind, reason: str | None = None
    ) -> CallReply:
        call_input = _call_input(request, kind, reason)
        await self._control.happen(
            call, call_input, expires_at=request.expires_at, attempt=request.attempt, settle=request.settle
        )
        return CallReply(call=call)

    async def _happen_to_user(
        self, request: ByClient, kind: InputKind, reason: str | None = None, *, resumed: bool = False
    ) -> Outcome | None:
        call_input = _call_input(request, kind, reason, resumed=resumed)
        return await self._control.happen_to_user(
            call_input, expires_at=request.expires_at, attempt=request.attempt
        )


def _call_input(
    request: ByClient, kind: InputKind, reason: str | None = None, *, resumed: bool = False
) -> CallInput:
    at = Address(session=request.session, gateway=request.gateway)
    return CallInput(kind, request.request_id, request.user, at, reason, resumed)
