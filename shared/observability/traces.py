"""Trace the requests that one client's event causes in all services, as spans of OpenTelemetry.

Off unless ``TRACES_ENDPOINT`` is set. Then :data:`active` is ``None``, nothing of OpenTelemetry is imported, and one
look at :data:`active` is all that a message costs. Where it is set, see :mod:`shared.observability.otel_tracing`.

The trace of a call has the call's id, so that an operator can look up one by the other. Services also agree about
sampling without a message (``docs/adr/0015-a-trace-for-each-call.md``).
"""

import binascii
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.observability.otel_tracing import Tracer

active: "Tracer | None" = None
"""The tracer of this process; ``None`` while traces are off."""


def switch_on(endpoint: str, ratio: float, service: str, instance: str, version: str) -> None:
    """Send spans to ``endpoint`` (OTLP over HTTP), of so many of all calls and other events: ``ratio``, 0 to 1."""
    global active
    from shared.observability.otel_tracing import Tracer  # not before: it takes time and memory

    active = Tracer(endpoint, ratio, service, instance, version)


def switch_off(timeout: float) -> None:
    """Send the spans that wait, ``timeout`` seconds at most. Does nothing if traces are off."""
    global active
    if active is not None:
        active.close(timeout)
        active = None


def trace_of(call: str) -> int | None:
    """Return the id of a call's trace: the 128 bits of the call's id; ``None`` for a text that is no id of a call."""
    try:
        bits = urlsafe_b64decode(call + "==") if len(call) == 22 else b""
    except (ValueError, binascii.Error):
        return None
    return int.from_bytes(bits) or None if len(bits) == 16 else None
