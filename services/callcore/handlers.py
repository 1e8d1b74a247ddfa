"""Handle the requests to call control: one method for each verb, a few lines each."""

from contextlib import suppress

from services.callcore.calls.call_owner import CallOwner, input_of
from services.callcore.calls.call_service import CallService
from services.callcore.calls.call_setup import CallSetup
from services.callcore.state.model import Address, CallInput, InputKind, Outcome
from shared.contracts.call_records import CallCommand, CommandResult
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
    """Handles ``rpc.calls.<verb>``; each method raises the errors that the requester receives."""

    def __init__(self, call_setup: CallSetup, call_service: CallService, call_owner: CallOwner) -> None:
        self._call_setup = call_setup
        self._call_service = call_service
        self._call_owner = call_owner

    async def register(self, server: RpcServer, instance: str) -> None:
        """Register the verbs that any instance answers, and those that are sent to this instance by name."""
        await server.serve("calls", "initiate", InitiateRequest, self.initiate_here, at=instance)
        await server.serve("calls", "happen", CallCommand, self.apply_here, at=instance)
        await server.serve("calls", "initiate", InitiateRequest, self.initiate)
        await server.serve("calls", "accept", AcceptRequest, self.accept)
        await server.serve("calls", "reject", RejectRequest, self.reject)
        await server.serve("calls", "end", EndRequest, self.end)
        await server.serve("calls", "find", FindRequest, self.find)
        await server.serve("calls", "attached", AttachedRequest, self.attached)
        await server.serve("calls", "left", LeftRequest, self.left)

    async def initiate(self, request: InitiateRequest) -> InitiateReply:
        """Set up a call on its owner, or here if this is the owner or the owner does not answer."""
        reply = await self._call_owner.forward_initiate(request) if not request.settle else None
        return reply or await self.initiate_here(request)

    async def apply_here(self, command: CallCommand) -> CommandResult:
        """Apply a command that another instance has forwarded."""
        outcome = await self._call_service.apply_here(
            command.call, input_of(command), expires_at=command.expires_at, initiated=command.initiated
        )
        return CommandResult(call=outcome.call, relay_to=outcome.relay_to)

    async def initiate_here(self, request: InitiateRequest) -> InitiateReply:
        """Set up a call on this instance."""
        call = await self._call_setup.initiate(request)
        return InitiateReply(call=call.call, to=request.to, expires_at=call.expires_at)

    async def accept(self, request: AcceptRequest) -> CallReply:
        """Accept a call for one device of the callee."""
        return await self._apply(request.call, request, InputKind.ACCEPT)

    async def reject(self, request: RejectRequest) -> CallReply:
        """Reject a ringing call for all devices of the callee."""
        return await self._apply(request.call, request, InputKind.REJECT, request.reason)

    async def end(self, request: EndRequest) -> CallReply:
        """End a call for both users."""
        return await self._apply(request.call, request, InputKind.END, request.reason)

    async def find(self, request: FindRequest) -> CallReply:
        """Find the call of two users. Raises :class:`ReceiverNotFound`."""
        call = await self._call_service.find(request.user, request.to)
        if call is None:
            raise ReceiverNotFound
        return CallReply(call=call)

    async def attached(self, request: AttachedRequest) -> AttachedReply:
        """Apply the new address of a session to its user's call; reply the call as the session sees it."""
        outcome = await self._apply_to_user(request, InputKind.ATTACHED, resumed=request.resumed)
        return AttachedReply(call=outcome.call.for_session(request.session) if outcome is not None else None)

    async def left(self, request: LeftRequest) -> Done:
        """Apply the end of a session to its user's call."""
        if request.attempt > 1 and request.call is not None:
            # The instance of the first try may have ended the call and died before it notified. Another call may
            # reserve the user by now, so the record of the call itself decides.
            call_input = _call_input(request, InputKind.LEFT, request.reason)
            with suppress(CallNotFound):
                await self._call_service.apply(
                    request.call, call_input, expires_at=request.expires_at, settle=True
                )
                return Done()
        await self._apply_to_user(request, InputKind.LEFT, request.reason)
        return Done()

    async def _apply(
        self, call: str, request: ByClient, kind: InputKind, reason: str | None = None
    ) -> CallReply:
        call_input = _call_input(request, kind, reason)
        await self._call_service.apply(
            call, call_input, expires_at=request.expires_at, attempt=request.attempt, settle=request.settle
        )
        return CallReply(call=call)

    async def _apply_to_user(
        self, request: ByClient, kind: InputKind, reason: str | None = None, *, resumed: bool = False
    ) -> Outcome | None:
        call_input = _call_input(request, kind, reason, resumed=resumed)
        return await self._call_service.apply_to_user(
            call_input, expires_at=request.expires_at, attempt=request.attempt
        )


def _call_input(
    request: ByClient, kind: InputKind, reason: str | None = None, *, resumed: bool = False
) -> CallInput:
    at = Address(session=request.session, gateway=request.gateway)
    return CallInput(kind, request.request_id, request.user, at, reason, resumed)
