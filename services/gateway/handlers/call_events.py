"""Handle client events of calls: initiate, accept, reject, end."""

import asyncio
import time
from contextlib import suppress
from typing import Any, TypeVar, cast

from services.gateway.clients.registry import Socket
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.ring_time import ms_left
from services.gateway.sessions.backend import Backend
from shared.clock import now_ms
from shared.contracts import calls, client
from shared.contracts.wire import Wire
from shared.errors import BadRequest, CallNotFound, NotSent, Unavailable
from shared.ids import new_id
from shared.observability import traces
from shared.observability.metrics import Histogram

R = TypeVar("R", bound=Wire)


class CallEvents:
    """Handles call events: one method an event. Each raises the error that its client is to be sent."""

    def __init__(self, backend: Backend, responder: Responder) -> None:
        self._instance = backend.instance
        self._rpc = backend.rpc
        self._retrier = backend.retrier
        self._responder = responder
        self.set_up = Histogram()
        """Time from ``call:initiate`` until the callee's devices were notified, in seconds."""

    async def initiate(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``call:initiate``."""
        initiate = cast(client.Initiate, message)
        if initiate.to == asked.socket.user:
            raise BadRequest("to: must be another user")
        request = calls.InitiateRequest(
            **self._sender(asked.socket),
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
        self._responder.ok(asked, **initiated.model_dump(by_alias=True))

    async def accept(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``call:accept``."""
        call = cast(client.Accept, message).call_id
        request = calls.AcceptRequest(**self._sender(asked.socket), call=call)
        await self._ask("accept", request, calls.CallReply)
        self._responder.ok(asked, callId=call)

    async def reject(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``call:reject``."""
        reject = cast(client.Reject, message)
        request = calls.RejectRequest(**self._sender(asked.socket), call=reject.call_id, reason=reject.reason)
        await self._ask("reject", request, calls.CallReply)
        self._responder.ok(asked, callId=reject.call_id)

    async def end(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``call:end``."""
        end = cast(client.End, message)
        request = calls.EndRequest(**self._sender(asked.socket), call=end.call_id, reason=end.reason)
        await self._ask("end", request, calls.CallReply)
        self._responder.ok(asked, callId=end.call_id)

    def _sender(self, socket: Socket) -> dict[str, Any]:
        """Return the fields by which callcore knows the sender of a request."""
        assert socket.user is not None and socket.session is not None
        return {
            "request_id": new_id(),
            "user": socket.user,
            "session": socket.session,
            "gateway": self._instance,
        }

    async def _ask(self, verb: str, request: calls.ByClient, reply: type[R]) -> R:
        """Send a request to callcore. If its outcome is unknown, settle it in the background.

        A call that may be half set up is ended at once, because no client continues it and both users are to be free.
        """
        try:
            return await self._rpc.ask("calls", verb, request, reply)
        except NotSent:
            raise
        except Unavailable:
            settle = request.model_copy(update={"settle": True})

            async def settle_request() -> None:
                if verb == "initiate":
                    with suppress(CallNotFound):
                        await self._rpc.ask("calls", verb, settle, reply)
                        return
                await asyncio.sleep(self._rpc.timeout)  # callcore handles the request no later than that
                with suppress(CallNotFound):
                    await self._rpc.ask("calls", verb, settle, reply)

            self._retrier.run("settle", settle_request)
            raise
