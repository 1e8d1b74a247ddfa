"""Who joins in one moment asks presence in one request: it costs much more than one who joins does in it."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from shared.contracts.presence import AlsoJoined, JoinReply, JoinRequest, JoinsReply, JoinsRequest
from shared.errors import FirstRefused, JoinAlone, NotSent, SignallingError, Unavailable
from shared.messaging.rpc import RpcClient
from shared.observability import traces

COMPANY_MAX = 31
"""How many come along with the first: what is lost with one request, and what presence does in one turn, is bounded."""

_Told = asyncio.Future[AlsoJoined | None]


class JoinBatcher:
    """Asks presence to bring users in. Those who come in the same turn of the event loop go with the first of them."""

    def __init__(self, services: RpcClient) -> None:
        self._services = services
        self._gathering: list[tuple[JoinRequest, _Told]] | None = None

    async def join(self, request: JoinsRequest) -> JoinReply:
        """What presence says. Raises what :meth:`shared.messaging.rpc.RpcClient.ask` does.

        Who resumes goes alone, because that may take presence longer; so does who is traced.
        """
        if request.resume_session is not None or traces.active is not None:
            return await self._alone(request)
        others = self._gathering
        if others is not None and len(others) < COMPANY_MAX:
            told: _Told = asyncio.get_running_loop().create_future()
            others.append((request, told))
            also = await told
            if also is None:
                return await self._alone(request)
            if also.reply is None:
                return await self._refused(request, also.error or {})
            return also.reply
        return await self._with_others(request)

    async def _alone(self, request: JoinsRequest) -> JoinReply:
        return await self._services.ask("presence", "join", request, JoinReply)

    async def _refused(self, request: JoinsRequest, wire: dict[str, Any]) -> JoinReply:
        """Raise the error of one of several, or ask for it alone if that is what it says: it has been counted then."""
        error = SignallingError.from_wire(wire)
        if isinstance(error, JoinAlone):
            return await self._alone(request.model_copy(update={"admitted": True}))
        raise error

    async def _with_others(self, request: JoinsRequest) -> JoinReply:
        others: list[tuple[JoinRequest, _Told]] = []
        self._gathering = others
        try:
            await asyncio.sleep(0)
            if self._gathering is others:
                self._gathering = None
            if not others:
                return await self._alone(request)
            several = request.model_copy(update={"also": tuple(each for each, _ in others), "outcomes": True})
            reply = await self._services.ask("presence", "join", several, JoinsReply)
        except FirstRefused as error:
            _tell_each(others, [AlsoJoined.model_validate_json(json.dumps(each)) for each in error.also])
            return await self._refused(request, error.first)
        except JoinAlone as error:  # of an older presence, which does not say who has been counted
            _tell(others, error)
            return await self._alone(request)
        except BaseException as error:
            if self._gathering is others:
                self._gathering = None
            _tell(others, error)
            raise
        _tell_each(others, reply.also or ())
        return reply


def _tell_each(others: list[tuple[JoinRequest, _Told]], also: Sequence[AlsoJoined]) -> None:
    """Tell each of the others what became of it; where presence does not say, each is to ask alone."""
    outcomes: Sequence[AlsoJoined | None] = also if len(also) == len(others) else [None] * len(others)
    for (_, told), outcome in zip(others, outcomes, strict=True):
        if not told.done():
            told.set_result(outcome)


def _tell(others: list[tuple[JoinRequest, _Told]], error: BaseException) -> None:
    """What became of the first of them became of all, unless it was its own affair: then each is to ask alone."""
    for _, told in others:
        if told.done():
            continue
        if isinstance(error, JoinAlone):
            told.set_result(None)
        elif isinstance(error, NotSent):
            told.set_exception(NotSent())
        elif isinstance(error, Unavailable) or not isinstance(error, SignallingError):
            told.set_exception(Unavailable())
        else:
            told.set_result(None)
