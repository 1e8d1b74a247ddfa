"""Requests to call control, a few lines each."""

from contextlib import suppress

from services.callcore.calls.call_owner import Charge, Deed
from services.callcore.calls.call_owner import Done as DeedDone
from services.callcore.calls.call_service import Control
from services.callcore.calls.call_setup import Placing
from services.callcore.state.model import Address, Happening, Kind, Outcome
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
from shared.messaging.rpc import Server


class Handlers:
    """One method a verb of ``rpc.calls.<verb>``."""

    def __init__(self, placing: Placing, control: Control, charge: Charge) -> None:
        self._placing = placing
        self._control = control
        self._charge = charge

    async def register(self, server: Server, instance: str) -> None:
        """Answer requests, to any instance and to this one by name."""
        await server.serve("calls", "initiate", InitiateRequest, self.initiate_here, at=instance)
        await server.serve("calls", "happen", Deed, self.happen_here, at=instance)
        await server.serve("calls", "initiate", InitiateRequest, self.initiate)
        await server.serve("calls", "accept", AcceptRequest, self.accept)
        await server.serve("calls", "reject", RejectRequest, self.reject)
        await server.serve("calls", "end", EndRequest, self.end)
        await server.serve("calls", "find", FindRequest, self.find)
        await server.serve("calls", "attached", AttachedRequest, self.attached)
        await server.serve("calls", "left", LeftRequest, self.left)

    async def initiate(self, request: InitiateRequest) -> InitiateReply:
        there = await self._charge.pass_on_initiate(request) if not request.settle else None
        return there or await self.initiate_here(request)

    async def happen_here(self, deed: Deed) -> DeedDone:
        outcome = await self._control.happen_here(
            deed.call, deed.happening(), expires_at=deed.expires_at, initiated=deed.initiated
        )
        return DeedDone(call=outcome.call, relay_to=outcome.relay_to)

    async def initiate_here(self, request: InitiateRequest) -> InitiateReply:
        call = await self._placing.initiate(request)
        return InitiateReply(call=call.call, to=request.to, expires_at=call.expires_at)

    async def accept(self, request: AcceptRequest) -> CallReply:
        return await self._happen(request.call, request, Kind.ACCEPT)

    async def reject(self, request: RejectRequest) -> CallReply:
        return await self._happen(request.call, request, Kind.REJECT, request.reason)

    async def end(self, request: EndRequest) -> CallReply:
        return await self._happen(request.call, request, Kind.END, request.reason)

    async def find(self, request: FindRequest) -> CallReply:
        call = await self._control.find(request.user, request.to)
        if call is None:
            raise ReceiverNotFound
        return CallReply(call=call)

    async def attached(self, request: AttachedRequest) -> AttachedReply:
        outcome = await self._happen_to_user(request, Kind.ATTACHED, resumed=request.resumed)
        return AttachedReply(call=outcome.call.held_by(request.session) if outcome is not None else None)

    async def left(self, request: LeftRequest) -> Done:
        if request.attempt > 1 and request.call is not None:
            # The first try may have ended the call and died before it told anybody. Another call may hold the user by
            # now, so only the call itself can tell.
            happening = _happening(request, Kind.LEFT, request.reason)
            with suppress(CallNotFound):
                await self._control.happen(
                    request.call, happening, expires_at=request.expires_at, settle=True
                )
                return Done()
        await self._happen_to_user(request, Kind.LEFT, request.reason)
        return Done()

    async def _happen(self, call: str, request: ByClient, kind: Kind, reason: str | None = None) -> CallReply:
        happening = _happening(request, kind, reason)
        await self._control.happen(
            call, happening, expires_at=request.expires_at, attempt=request.attempt, settle=request.settle
        )
        return CallReply(call=call)

    async def _happen_to_user(
        self, request: ByClient, kind: Kind, reason: str | None = None, *, resumed: bool = False
    ) -> Outcome | None:
        happening = _happening(request, kind, reason, resumed=resumed)
        return await self._control.happen_to_user(
            happening, expires_at=request.expires_at, attempt=request.attempt
        )


def _happening(
    request: ByClient, kind: Kind, reason: str | None = None, *, resumed: bool = False
) -> Happening:
    at = Address(session=request.session, gateway=request.gateway)
    return Happening(kind, request.request_id, request.user, at, reason, resumed)
