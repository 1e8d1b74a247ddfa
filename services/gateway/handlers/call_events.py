"""What clients ask of call control: the turns of their calls."""

import asyncio
import time
from contextlib import suppress
from typing import TypeVar, cast

from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.ring_time import ms_left
from services.gateway.sessions.background_retry import BackgroundRetrier
from services.gateway.sessions.join import JoinService
from shared.clock import now_ms
from shared.contracts import calls, client
from shared.contracts.wire import Wire
from shared.errors import BadRequest, CallNotFound, NotSent, Unavailable
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.observability import traces
from shared.observability.metrics import Histogram

R = TypeVar("R", bound=Wire)


class CallEvents:
    """A method an event, and each raises the error that its client is to be told."""

    def __init__(
        self, services: RpcClient, replies: Responder, join_service: JoinService, retrier: BackgroundRetrier
    ) -> None:
        self._services = services
        self._replies = replies
        self._join_service = join_service
        self._retrier = retrier
        self.set_up = Histogram()
        """From ``call:initiate`` until the callee's devices were told, in seconds."""

    async def initiate(self, asked: ClientRequest, message: Wire) -> None:
        """``call:initiate``"""
        initiate = cast(client.Initiate, message)
        if initiate.to == asked.socket.user:
            raise BadRequest("to: must be somebody else")
        request = calls.InitiateRequest(
            **self._join_service.by(asked.socket),
            call=new_id() if traces.active is None else traces.active.call_id(),
            to=initiate.to,
            call_type=initiate.call_type,
            metadata=initiate.metadata,
        )
        begun = time.perf_counter()
        reply = await self._ask("initiate", request, calls.InitiateReply)
        self.set_up.observe(time.perf_counter() - begun)
        initiated = client.Initiated(
            call_id=reply.call,
            to=reply.to,
            expires_at=reply.expires_at,
            expires_in_ms=ms_left(reply.expires_at, now_ms()),
        )
        self._replies.ok(asked, **initiated.model_dump(by_alias=True))

    async def accept(self, asked: ClientRequest, message: Wire) -> None:
        """``call:accept``"""
        call = cast(client.Accept, message).call_id
        request = calls.AcceptRequest(**self._join_service.by(asked.socket), call=call)
        await self._ask("accept", request, calls.CallReply)
        self._replies.ok(asked, callId=call)

    async def reject(self, asked: ClientRequest, message: Wire) -> None:
        """``call:reject``"""
        reject = cast(client.Reject, message)
        request = calls.RejectRequest(
            **self._join_service.by(asked.socket), call=reject.call_id, reason=reject.reason
        )
        await self._ask("reject", request, calls.CallReply)
        self._replies.ok(asked, callId=reject.call_id)

    async def end(self, asked: ClientRequest, message: Wire) -> None:
        """``call:end``"""
        end = cast(client.End, message)
        request = calls.EndRequest(**self._join_service.by(asked.socket), call=end.call_id, reason=end.reason)
        await self._ask("end", request, calls.CallReply)
        self._replies.ok(asked, callId=end.call_id)

    async def _ask(self, verb: str, request: calls.ByClient, reply: type[R]) -> R:
        """Have call control do something. What it may have done without anybody hearing of it is told later.

        A call that may be half placed is given up at once: nobody goes on with it, and both users are to be free.
        """
        try:
            return await self._services.ask("calls", verb, request, reply)
        except NotSent:
            raise
        except Unavailable:
            settle = request.model_copy(update={"settle": True})

            async def settled() -> None:
                if verb == "initiate":
                    with suppress(CallNotFound):
                        await self._services.ask("calls", verb, settle, reply)
                        return
                await asyncio.sleep(self._services.timeout)  # from then on nobody does it any more
                with suppress(CallNotFound):
                    await self._services.ask("calls", verb, settle, reply)

            self._retrier.run("settle", settled)
            raise
