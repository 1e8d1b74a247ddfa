"""Send requests between services with retries, and serve them on ``nats.micro`` endpoints."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import nats.errors
from nats.micro import add_service
from nats.micro.request import Request as MicroRequest
from nats.micro.service import EndpointStats, Service
from pydantic import ValidationError

from shared import subjects
from shared.clock import now_ms
from shared.contracts.rpc import Reply, Request
from shared.contracts.wire import Wire
from shared.errors import BadRequest, Late, NotSent, SignallingError, Unavailable
from shared.messaging import time_budget
from shared.nats.compat import micro
from shared.nats.compat.client import drain
from shared.nats.connection import Bus
from shared.observability import logs, traces
from shared.observability.metrics import Histogram

log = logs.get(__name__)

Q = TypeVar("Q", bound=Request)
R = TypeVar("R", bound=Wire)

TRIES = 2
QUEUE_GROUP = "q"
_OK = b'{"ok":true,"result":'


class RpcClient:
    """Sends requests to services. ``timeout``: seconds for each of two tries, the second usually elsewhere."""

    def __init__(self, bus: Bus, *, timeout: float) -> None:
        self._bus = bus
        self.timeout = timeout
        self.answered: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        """(service, verb) → how long answers took, in seconds."""
        self.again: Counter[tuple[str, str]] = Counter()
        """Requests tried again, and those without an answer."""
        self.unanswered: Counter[tuple[str, str]] = Counter()

    async def ask(
        self,
        service: str,
        verb: str,
        request: Request,
        reply: type[R],
        *,
        at: str | None = None,
        timeout: float | None = None,
    ) -> R:
        """Send ``request`` and return the answer. ``at``: the instance to send to, with one try only.

        ``timeout``: seconds for one try, instead of the client's own: within a request, a
        :func:`shared.messaging.time_budget.share`.
        Both tries carry the same request id, so a service does not execute the command twice. Raises the
        :class:`SignallingError` of the answer. Without an answer it raises :class:`NotSent` if no instance can have
        received the request, else :class:`Unavailable`.
        """
        subject = subjects.rpc(service, verb) if at is None else subjects.rpc_at(service, verb, at)
        tries = TRIES if at is None else 1
        sent = False
        begun = time.perf_counter()
        seconds = self.timeout if timeout is None else timeout
        left = int(seconds * 1000)
        for attempt in range(1, tries + 1):
            until = {"expires_at": now_ms() + left, "left_ms": left, "attempt": attempt}
            stamped = request.model_copy(update=until)
            try:
                msg = await self._bus.request(subject, stamped.dump(), timeout=seconds)
            except Unavailable as error:
                sent = sent or not isinstance(error, NotSent)
                if attempt == tries or not self._bus.connected:
                    self.unanswered[service, verb] += 1
                    raise (Unavailable() if sent else error) from error
                self.again[service, verb] += 1
                log.warning("request tried again", subject=subject, request=request.request_id)
                continue
            self.answered[service, verb].observe(time.perf_counter() - begun)
            try:
                if msg.data.startswith(_OK):
                    return reply.model_validate_json(msg.data[len(_OK) : -1])
                refusal = Reply.model_validate_json(msg.data).error
            except ValueError as error:
                raise Unavailable from error
            raise SignallingError.from_wire(refusal or {})
        raise AssertionError("unreachable")


@dataclass(slots=True)
class RequestStats:
    """Counts the requests to an endpoint since the start, by outcome.

    ``ok``: done. ``refused``: answered with an error of the requester. ``errors``: with one of the service.
    ``late``: not answered, because the requester had stopped waiting. ``took``: how long each took, in seconds.
    """

    requests: int = 0
    ok: int = 0
    refused: int = 0
    errors: int = 0
    late: int = 0
    took: Histogram = field(default_factory=Histogram)

    def told(self) -> dict[str, float]:
        """Return ``data`` of the endpoint for ``$SRV.STATS``; ``seconds``: the sum over all requests."""
        return {
            "requests": self.requests,
            "refused": self.refused,
            "errors": self.errors,
            "seconds": self.took.sum,
        }


class RpcServer:
    """Answers requests on ``nats.micro`` endpoints: up to ``concurrency`` at once, and refuses those past it."""

    def __init__(
        self, bus: Bus, service: Service, tallies: dict[str, RequestStats], *, concurrency: int = 512
    ) -> None:
        self._bus = bus
        self._service = service
        self.tallies = tallies
        """By endpoint: a verb, or ``<verb>-here`` for what is sent to this instance by name."""
        self._free = concurrency
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, bus: Bus, name: str, instance: str, version: str) -> "RpcServer":
        """Return a server that ``$SRV.PING``, ``INFO`` and ``STATS`` list by ``name``; metadata: the instance."""
        tallies: dict[str, RequestStats] = {}

        def stats_of(endpoint: EndpointStats) -> dict[str, Any]:
            tally = tallies[endpoint.name]
            endpoint.num_requests, endpoint.num_errors = tally.requests, tally.errors
            endpoint.processing_time = int(tally.took.sum * 1e9)
            endpoint.average_processing_time = endpoint.processing_time // max(1, tally.requests)
            return tally.told()

        service = await add_service(
            bus.client, name=name, version=version, metadata={"instance": instance}, stats_handler=stats_of
        )
        return cls(bus, service, tallies)

    async def serve(
        self,
        service: str,
        verb: str,
        model: type[Q],
        handler: Callable[[Q], Awaitable[Wire]],
        *,
        at: str | None = None,
    ) -> None:
        """Answer ``rpc.<service>.<verb>`` with what ``handler`` returns, or with the error it raises.

        ``at``: only what is sent to this instance by name.
        """

        name, subject = verb, subjects.rpc(service, verb)
        if at is not None:
            name, subject = f"{verb}-here", subjects.rpc_at(service, verb, at)
        tally = self.tallies[name] = RequestStats()

        def accept(_subject: str, reply: str, payload: bytes, head: bytes) -> None:
            tally.requests += 1
            if self._free == 0:
                tally.errors += 1
                self._respond(subject, reply, _refusal(Unavailable("Service is at its limit")))
                return
            self._free -= 1
            task = asyncio.create_task(self._answer(subject, reply, payload, head, model, handler, tally))
            self._tasks.add(task)
            task.add_done_callback(self._done)

        async def early(request: MicroRequest) -> None:
            accept(subject, micro.reply_of(request), request.data, b"")

        await self._service.add_endpoint(name=name, handler=early, subject=subject, queue_group=QUEUE_GROUP)
        # micro lists the endpoint and its stats; its own dispatch costs more than most answers.
        self._bus.take_directly(micro.subscriptions(self._service)[-1], accept)

    @property
    def in_hand(self) -> int:
        """Return the number of requests under way."""
        return len(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1

    async def _answer(
        self,
        subject: str,
        reply: str,
        payload: bytes,
        head: bytes,
        model: type[Q],
        handler: Callable[[Q], Awaitable[Wire]],
        tally: RequestStats,
    ) -> None:
        answer: bytes
        begun = time.perf_counter()
        try:
            query = model.model_validate_json(payload)
            until = time_budget.due(query.expires_at, query.left_ms)
            if time_budget.is_over(until):
                raise Late
            if until < query.expires_at:
                query = query.model_copy(update={"expires_at": until})
            answering = handler(query)
            if head and traces.active is not None:
                answering = traces.active.answer(subjects.verb_of(subject), head, answering)
            answer = _OK + (await answering).dump() + b"}"
            tally.ok += 1
        except ValidationError as error:
            tally.errors += 1
            log.error("malformed request", subject=subject, fields=[e["loc"] for e in error.errors()])
            answer = _refusal(BadRequest("Malformed request"))
        except Late:
            tally.late += 1
            return  # no answer, because the requester has gone to another instance
        except SignallingError as error:
            if error.retryable:
                tally.errors += 1
            else:
                tally.refused += 1
            answer = _refusal(error)
        except Exception:
            tally.errors += 1
            # A defect: the log gets the traceback, the client gets a retryable error.
            log.exception("request failed", subject=subject)
            answer = _refusal(Unavailable())
        finally:
            tally.took.observe(time.perf_counter() - begun)
        self._respond(subject, reply, answer)

    def _respond(self, subject: str, reply: str, answer: bytes) -> None:
        if not reply:
            return
        try:
            self._bus.publish(reply, answer)
        except Unavailable:  # the connection was lost meanwhile: the requester tries again
            log.warning("answer not sent", subject=subject)

    async def stop(self, timeout: float) -> None:
        """Take no more requests, and finish those that NATS has handed to this instance.

        ``timeout``: seconds at most for each of the two. While NATS is away there is nothing to finish.
        """
        # Service.stop() alone throws away what has been received and not yet begun.
        try:
            async with asyncio.timeout(timeout):
                for subscription in micro.subscriptions(self._service):
                    await drain(subscription)
                micro.forget_endpoints(self._service)
                await self._service.stop()
        except (TimeoutError, nats.errors.Error) as error:
            log.warning("requests not drained", error=str(error) or type(error).__name__)
        await self.drain(timeout)

    async def drain(self, timeout: float) -> None:
        """Wait for the requests under way, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)


def _refusal(error: SignallingError) -> bytes:
    wire: dict[str, Any] = error.to_wire()
    return Reply(ok=False, error=wire).dump()
