"""Batch joins of one event-loop tick into one presence request.

A request costs much more than one join in it.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from shared.contracts.presence import AlsoJoined, JoinReply, JoinRequest, JoinsReply, JoinsRequest
from shared.errors import FirstRefused, JoinAlone, NotSent, SignallingError, Unavailable
from shared.messaging.rpc import RpcClient
from shared.observability import traces

BATCH_MAX = 31
"""Joins in a request besides its first one.

It bounds the joins that fail with one request, and the work of presence in one event-loop tick.
"""

_Outcome = asyncio.Future[AlsoJoined | None]
"""The outcome of a join in a batch; ``None`` if it has to be requested alone."""
_Batch = list[tuple[JoinRequest, _Outcome]]


class JoinBatcher:
    """Requests sessions of presence. Joins of one event-loop tick are sent with the first of them."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._open: _Batch | None = None
        """The batch of this event-loop tick."""

    async def join(self, request: JoinsRequest) -> JoinReply:
        """Return the reply of presence. Raises what :meth:`shared.messaging.rpc.RpcClient.ask` does.

        A resume is requested alone because presence may take longer for it, and a traced join because it has a trace of
        its own.
        """
        if request.resume_session is not None or traces.active is not None:
            return await self._join_alone(request)
        batch = self._open
        if batch is not None and len(batch) < BATCH_MAX:
            outcome: _Outcome = asyncio.get_running_loop().create_future()
            batch.append((request, outcome))
            joined = await outcome
            if joined is None:
                return await self._join_alone(request)
            if joined.reply is None:
                return await self._refused(request, joined.error or {})
            return joined.reply
        return await self._join_batch(request)

    async def _join_alone(self, request: JoinsRequest) -> JoinReply:
        return await self._rpc.ask("presence", "join", request, JoinReply)

    async def _refused(self, request: JoinsRequest, wire: dict[str, Any]) -> JoinReply:
        """Raise the error of one join of a batch, unless it is :class:`JoinAlone`: then request that join alone.

        Presence has counted the join then, and does not count it again.
        """
        error = SignallingError.from_wire(wire)
        if isinstance(error, JoinAlone):
            return await self._join_alone(request.model_copy(update={"admitted": True}))
        raise error

    async def _join_batch(self, request: JoinsRequest) -> JoinReply:
        """Request a join, and those that are added to its batch until the next event-loop tick."""
        batch: _Batch = []
        self._open = batch
        try:
            await asyncio.sleep(0)
            if self._open is batch:
                self._open = None
            if not batch:
                return await self._join_alone(request)
            joins = request.model_copy(update={"also": tuple(each for each, _ in batch), "outcomes": True})
            reply = await self._rpc.ask("presence", "join", joins, JoinsReply)
        except FirstRefused as error:
            _resolve(batch, [AlsoJoined.model_validate_json(json.dumps(each)) for each in error.also])
            return await self._refused(request, error.first)
        except JoinAlone as error:  # of an older presence, which does not say which joins have been counted
            _fail(batch, error)
            return await self._join_alone(request)
        except BaseException as error:
            if self._open is batch:
                self._open = None
            _fail(batch, error)
            raise
        _resolve(batch, reply.also or ())
        return reply


def _resolve(batch: _Batch, also: Sequence[AlsoJoined]) -> None:
    """Set the outcome of each join of a batch; without outcomes of presence each is requested alone."""
    outcomes: Sequence[AlsoJoined | None] = also if len(also) == len(batch) else [None] * len(batch)
    for (_, outcome), joined in zip(batch, outcomes, strict=True):
        if not outcome.done():
            outcome.set_result(joined)


def _fail(batch: _Batch, error: BaseException) -> None:
    """Set the outcomes of a batch whose request failed.

    An error that concerns the first join only has the others requested alone.
    """
    for _, outcome in batch:
        if outcome.done():
            continue
        if isinstance(error, JoinAlone):
            outcome.set_result(None)
        elif isinstance(error, NotSent):
            outcome.set_exception(NotSent())
        elif isinstance(error, Unavailable) or not isinstance(error, SignallingError):
            outcome.set_exception(Unavailable())
        else:
            outcome.set_result(None)
