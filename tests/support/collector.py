"""Takes spans by OTLP over HTTP, as a collector does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Span(NamedTuple):
    """A span as it came. ``service``: the instance that made it. ``begun``, ``ended``: nanoseconds."""

    trace: str
    id: str
    parent: str
    name: str
    service: str
    kind: int
    begun: int
    ended: int
    attributes: dict[str, Any]
    failed: bool


class Collector:
    """What has come so far, by trace, and what else was said of the resources."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: dict[str, dict[str, Any]] = {}
        self.wrong: list[str] = []
        self.url = ""
        self.refusals: list[int] = []
        """Statuses with which the next requests are refused."""
        self.open = threading.Event()
        """Whether requests are answered."""
        self.open.set()

    def trace(self, id_: str) -> list[Span]:
        """The spans of a trace, in the order in which they began."""
        return sorted((span for span in self.spans if span.trace == id_), key=lambda span: span.begun)

    def take(self, path: str, kind: str | None, body: bytes) -> bytes:
        """One request."""
        if path != "/v1/traces" or kind != "application/x-protobuf":
            self.wrong.append(f"{path} {kind}")
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _plain(of_resource.resource.attributes)
            self.resources[resource["service.instance.id"]] = resource
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.spans.append(
                        Span(
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.name,
                            resource["service.instance.id"],
                            span.kind,
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            _plain(span.attributes),
                            span.status.code == span.status.STATUS_CODE_ERROR,
                        )
                    )
                    if span.events:
                        self.wrong.append(f"{span.name}: {span.events}")
        return ExportTraceServiceResponse().SerializeToString()


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@contextmanager
def collecting(*, silent: bool = False) -> Iterator[Collector]:
    """A collector on a port of its own; ``silent``: one that takes requests and does not answer until it is opened."""
    collector = Collector()
    if silent:
        collector.open.clear()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.open.wait(60)
            refusal = collector.refusals.pop(0) if collector.refusals else None
            answer = b"" if refusal else collector.take(self.path, self.headers["Content-Type"], body)
            self.send_response(refusal or 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
