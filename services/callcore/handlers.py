"""Requests to call control, a few lines each."""

from services.callcore.control import Control
from services.callcore.model import Address, Happening, Kind
from services.callcore.placing import Placing
from shared.contracts.calls import (
    AcceptRequest,
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
from shared.errors import ReceiverNotFound
from shared.rpc import Server


class Handlers:
    """One method a verb of ``rpc.calls.<verb>``."""

    def __init__(self, placing: Placing, control: Control) -> None:
        self._placing = placing
        self._control = control

    async def register(self, server: Server) -> None:
        """Answer requests."""
        await server.serve("calls", "initiate", InitiateRequest, self.initiate)
        await server.serve("calls", "accept", AcceptRequest, self.accept)
        await server.serve("calls", "reject", RejectRequest, self.reject)
        await server.serve("calls", "end", EndRequest, self.end)
        await server.serve("calls", "find", FindRequest, self.find)
        await server.serve("calls", "attached", AttachedRequest, self.attached)
        await server.serve("calls", "left", LeftRequest, self.left)

    async def initiate(self, request: InitiateRequest) -> InitiateReply:
        call = await self._placing.initiate(request)
        return InitiateReply(call=call.call, to=request.to, expires_at=call.expires_at)

    async def accept(self, request: AcceptRequest) -> CallReply:
        return await self._happen(request.call, _happening(request, Kind.ACCEPT), request.expires_at)

    async def reject(self, request: RejectRequest) -> CallReply:
        return await self._happen(
            request.call, _happening(request, Kind.REJECT, request.reason), request.expires_at
        )

    async def end(self, request: EndRequest) -> CallReply:
        return await self._happen(
            request.call, _happening(request, Kind.END, request.reason), request.expires_at
        )

    async def find(self, request: FindRequest) -> CallReply:
        call = await self._control.find(request.user, request.to)
        if call is None:
            raise ReceiverNotFound
        return CallReply(call=call)

    async def attached(self, request: AttachedRequest) -> Done:
        await self._control.happen_to_user(_happening(request, Kind.ATTACHED), expires_at=request.expires_at)
        return Done()

    async def left(self, request: LeftRequest) -> Done:
        await self._control.happen_to_user(
            _happening(request, Kind.LEFT, request.reason), expires_at=request.expires_at
        )
        return Done()

    async def _happen(self, call: str, happening: Happening, expires_at: int) -> CallReply:
        await self._control.happen(call, happening, expires_at=expires_at)
        return CallReply(call=call)


def _happening(request: ByClient, kind: Kind, reason: str | None = None) -> Happening:
    at = Address(session=request.session, gateway=request.gateway)
    return Happening(kind, request.request_id, request.user, at, reason)
