"""Make spans and carry them through NATS. Imported only where traces are on.

Other modules use :mod:`shared.observability.traces`.

A root is a client's event, or a change of a call without a request. Each request over NATS that it causes, in any
service, is a span below it. Requests and deliveries of a sampled trace carry the header ``traceparent``; other messages
have no such header. No span names users.
"""

import asyncio
import logging
import re
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Sequence
from contextvars import Token
from functools import partial
from http.client import HTTPException
from types import TracebackType
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from shared import subjects
from shared.errors import SignallingError
from shared.observability import logs
from shared.observability.traces import trace_of

log = logs.get(__name__)

R = TypeVar("R")

HEADER = "traceparent"
"""The header of W3C's Trace Context: version, trace, span, flags."""
SPANS_MAX = 2_048
"""Spans that may wait to be sent; past it the oldest are dropped."""
BATCH_MAX = 512
"""Spans that are sent at once."""
SEND_SECONDS = 1.0
"""Seconds between two exports of spans."""
TRY_SECONDS = 5.0
"""Seconds for an export, retries included, before its spans are dropped."""
AGAIN_SECONDS = 1.0
"""The pause before an export is tried again."""
SAY_SECONDS = 60.0
"""Least time between two log lines about failed exports."""

_TRACEPARENT = re.compile(rb"^traceparent: ?00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r$", re.M)
_END = b"\r\n"
_COME_AGAIN = (429, 502, 503, 504)
_TOKENS = {"rpc": 3, "$KV": 3, "event": 2, "deadline": 3}
"""First token of a subject → how many tokens name the operation; ids follow."""


class Tracer:
    """Makes spans and sends them to ``endpoint``, from a thread of its own."""

    def __init__(self, endpoint: str, ratio: float, service: str, instance: str, version: str) -> None:
        # OpenTelemetry would log each span without room; _Exporter logs the reason once a minute.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        names = {
            "service.namespace": "hellotalk-signalling",
            "service.name": service,
            "service.instance.id": instance,
            "service.version": version,
        }
        self._sampler = TraceIdRatioBased(ratio)
        self._provider = TracerProvider(
            sampler=ParentBased(self._sampler),
            resource=Resource.create(names),
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Exporter(endpoint),
                max_queue_size=SPANS_MAX,
                max_export_batch_size=BATCH_MAX,
                schedule_delay_millis=SEND_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("signalling", version)

    def close(self, timeout: float) -> None:
        """Send the spans that wait, ``timeout`` seconds at most; drop those not sent by then."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(timeout)

    # --- roots ----------------------------------------------------------------------------------------------------

    def event(self, name: str, call: str | None) -> "_Scope":
        """Start the span of a client's event, in the trace of ``call`` if it names one."""
        return self._scope(name, SpanKind.SERVER, self._of_call(call), {"call.id": call} if call else None)

    def happening(self, name: str, call: str) -> "_Scope":
        """Start the span of a change of a call without a request, such as a timeout."""
        return self._scope(name, SpanKind.INTERNAL, self._of_call(call), {"call.id": call})

    def call_id(self) -> str:
        """Return an id for the call that the current event creates: the id of its trace, which is as random."""
        span = trace.get_current_span()
        call = urlsafe_b64encode(span.get_span_context().trace_id.to_bytes(16)).decode().rstrip("=")
        span.set_attribute("call.id", call)
        return call

    def _of_call(self, call: str | None) -> otel.Context:
        """Return the context below the root of a call's trace; the call's id gives its id and the sampling decision."""
        id_ = trace_of(call) if call is not None else None
        if id_ is None:
            return otel.Context()
        sampled = self._sampler.should_sample(None, id_, "").decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return _below(SpanContext(id_, _root_of(id_), is_remote=True, trace_flags=flags))

    # --- spans below them -----------------------------------------------------------------------------------------

    def sampled(self) -> bool:
        """True if the current context belongs to a sampled trace."""
        return trace.get_current_span().is_recording()

    def head(self) -> bytes:
        """Return the NATS headers that continue the trace at the receiver; empty if it is not sampled."""
        span = trace.get_current_span()
        return _head_of(span) if span.is_recording() else b""

    def asking(self, subject: str, asking: asyncio.Future[Any], head: bytes) -> bytes:
        """Start the span of a request to NATS or to a service. ``asking``: ends the span when it is done.

        Returns the NATS headers to send instead of ``head``: for a service with the span.
        """
        span = self._tracer.start_span(_family(subject), None, SpanKind.CLIENT)
        asking.add_done_callback(partial(_answered, span))
        return _head_of(span, head) if subjects.is_rpc(subject) else head

    async def answer(self, name: str, head: bytes, answering: Awaitable[R]) -> R:
        """Await the handler of a request, ``answering``, below the span in ``head``, its NATS headers."""
        above = _parsed(head)
        if above is None:
            return await answering
        with self._scope(name, SpanKind.SERVER, above, None):
            return await answering

    def delivery(self, event: str, head: bytes) -> "_Scope":
        """Start the span of writing an event to a client's socket, below the span in ``head``, its NATS headers."""
        return self._scope(f"deliver {event}", SpanKind.CONSUMER, _parsed(head) or otel.Context(), None)

    def _scope(
        self,
        name: str,
        kind: SpanKind,
        above: otel.Context | None,
        attributes: dict[str, AttributeValue] | None,
    ) -> "_Scope":
        return _Scope(self._tracer.start_span(name, above, kind, attributes))


class _Scope:
    """Makes a span the current one while the scope lasts.

    OpenTelemetry's own writes the texts and tracebacks of exceptions into spans, in which there may be user ids.
    """

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[otel.Context] | None = None

    def __enter__(self) -> None:
        self._token = otel.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None:
            _fail(self._span, error)
        assert self._token is not None
        otel.detach(self._token)
        self._span.end()


def _fail(span: Span, error: BaseException) -> None:
    refusal = error if isinstance(error, SignallingError) else None
    span.set_attribute("error.type", refusal.code if refusal else type(error).__name__)
    if refusal is None or refusal.retryable:  # else it is an error of the client
        span.set_status(Status(StatusCode.ERROR))


def _answered(span: Span, asking: asyncio.Future[Any]) -> None:
    error = asyncio.CancelledError() if asking.cancelled() else asking.exception()
    if error is not None:
        _fail(span, error)
    span.end()


def _head_of(span: Span, head: bytes = b"") -> bytes:
    """Return ``head`` with the header of the span for the receiver."""
    at = span.get_span_context()
    lines = head.removesuffix(_END) or b"NATS/1.0\r\n"
    line = f"{HEADER}: 00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}\r\n"
    return lines + line.encode() + _END


class _Ids(RandomIdGenerator):
    """Gives the first span of a trace the first half of the trace's id, so that others can add spans below it."""

    def __init__(self) -> None:
        self._begun: int | None = None
        """The id of a trace whose first span has no id yet."""

    def generate_trace_id(self) -> int:
        # From the operating system's randomness, because ids of calls come of it.
        while not _root_of(begun := secrets.randbits(128)):
            pass
        self._begun = begun
        return begun

    def generate_span_id(self) -> int:
        begun, self._begun = self._begun, None
        return super().generate_span_id() if begun is None else _root_of(begun)


class _Exporter(SpanExporter):
    """Exports spans over HTTP, and logs failures at most once in :data:`SAY_SECONDS`.

    OpenTelemetry's own needs `requests`, which gateways would then import with Engine.IO, traces or not.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._quiet_until = 0.0
        self._lost = 0
        self._closing = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body = encode_spans(spans).SerializeToString()
        until = time.monotonic() + TRY_SECONDS
        while (left := until - time.monotonic()) > 0:
            reason, again = self._send(body, left)
            if not reason:
                return SpanExportResult.SUCCESS
            if not again or self._closing.wait(AGAIN_SECONDS):
                break
        self._lost += len(spans)
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + SAY_SECONDS
            log.warning("traces cannot be sent", reason=reason, spans_lost=self._lost)
            self._lost = 0
        return SpanExportResult.FAILURE

    def _send(self, body: bytes, timeout: float) -> tuple[str, bool]:
        """Try once. Returns the reason of a failure (empty: none), and True if another try may succeed."""
        request = Request(self._endpoint, body, {"Content-Type": "application/x-protobuf"})  # noqa: S310 (http)
        try:
            with urlopen(request, timeout=timeout):  # noqa: S310
                return "", False
        except HTTPError as error:
            error.close()
            return f"status {error.code}", error.code in _COME_AGAIN
        except (OSError, HTTPException) as error:
            return str(error) or type(error).__name__, True

    def shutdown(self) -> None:
        self._closing.set()


def _root_of(trace_id: int) -> int:
    """Return the id of a trace's first span."""
    return trace_id >> 64


def _below(span: SpanContext) -> otel.Context:
    return trace.set_span_in_context(NonRecordingSpan(span), otel.Context())


def _parsed(head: bytes) -> otel.Context | None:
    """Return the context below the span in NATS headers; ``None`` if there is none."""
    found = _TRACEPARENT.search(head)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return _below(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)))


def _family(subject: str) -> str:
    """Return the operation at a subject, without ids: one of a few names."""
    first, *rest = subject.split(".")
    if first == "$JS":  # $JS.API.<what is asked>.<stream>…
        stream = next((n for n, token in enumerate(rest) if not token.isupper()), len(rest))
        return ".".join((first, *rest[: stream + 1]))
    return ".".join((first, *rest[: _TOKENS.get(first, 1) - 1]))
