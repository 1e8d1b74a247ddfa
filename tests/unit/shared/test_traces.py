"""Traces where they are off, the ids of those that are on, and what becomes of odd headers."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from shared.errors import CallNotFound, Unavailable
from shared.ids import could_be_minted, new_id
from shared.observability import traces
from shared.observability.otel_tracing import BATCH_MAX, SPANS_MAX, Tracer, _family
from tests.support.collector import Collector, collecting
from tests.support.logged import Logged

SERVICES = ("gateway", "callcore", "presence")


@pytest.fixture
def collector() -> Iterator[Collector]:
    # One for each test: what a slow one is sent may arrive after its test.
    with collecting() as collector:
        yield collector


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Tracer]:
    level = logging.getLogger("opentelemetry").level
    tracing = Tracer(collector.url, 1.0, "gateway", "gw-1", "1.0")
    yield tracing
    tracing.close(5)
    logging.getLogger("opentelemetry").setLevel(level)


@pytest.mark.parametrize("service", SERVICES)
def test_where_traces_are_off_nothing_of_opentelemetry_is_imported(service: str) -> None:
    code = (
        f"import sys, services.{service}.app, shared.service.runner\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('opentelemetry', 'google')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_trace_of_a_call_has_its_id() -> None:
    assert traces.trace_of("AAAAAAAAAAAAAAAAAAAAAQ") == 1
    assert traces.trace_of("_____________________w") == 2**128 - 1
    assert len({traces.trace_of(new_id()) for _ in range(100)}) == 100


@pytest.mark.parametrize("text", ["", "short", "A" * 22, "A" * 23, "ä" * 22, "AAAAAAAAAAAAAAAAAAAA=="])
def test_what_is_no_id_of_a_call_has_no_trace(text: str) -> None:
    assert traces.trace_of(text) is None


def test_a_call_that_an_event_brings_about_has_the_id_of_its_trace(
    tracing: Tracer, collector: Collector
) -> None:
    with tracing.event("call:initiate", None):
        call = tracing.call_id()
        head = tracing.head()
    with tracing.event("call:accept", call):
        pass
    with tracing.event("call:accept", "not one of ours"):
        pass
    tracing.close(5)
    trace = traces.trace_of(call)
    assert could_be_minted(call) and len(call) == 22 and trace is not None
    initiate, accept, other = sorted(collector.spans, key=lambda span: span.begun)
    assert initiate.trace == accept.trace == f"{trace:032x}" != other.trace
    assert (initiate.id, initiate.parent, accept.parent) == (initiate.trace[:16], "", initiate.id)
    assert other.parent == ""
    assert head == f"NATS/1.0\r\ntraceparent: 00-{initiate.trace}-{initiate.id}-03\r\n\r\n".encode()


def test_only_errors_of_ours_count_as_such(tracing: Tracer, collector: Collector) -> None:
    for error in (CallNotFound("of alice"), Unavailable("of alice"), KeyError("alice")):
        with pytest.raises(type(error)), tracing.event("call:end", None):
            raise error
    tracing.close(5)
    said = [(span.attributes["error.type"], span.failed) for span in collector.spans]
    assert sorted(said) == [("KeyError", True), ("call_not_found", False), ("unavailable", True)]
    assert "alice" not in repr(collector.spans) and collector.wrong == []


@pytest.fixture
def said(logged: Logged) -> list[MutableMapping[str, Any]]:
    return logged.entries


def test_a_collector_that_is_away_for_a_moment_gets_the_spans_later(
    said: list[MutableMapping[str, Any]], tracing: Tracer, collector: Collector
) -> None:
    collector.refusals = [503]
    with tracing.event("call:end", None):
        pass
    until = time.monotonic() + 5
    while not collector.spans and time.monotonic() < until:
        time.sleep(0.05)
    assert len(collector.spans) == 1 and said == []


def test_spans_that_a_collector_does_not_want_are_not_sent_again(
    said: list[MutableMapping[str, Any]], tracing: Tracer, collector: Collector
) -> None:
    collector.refusals = [400, 400]
    with tracing.event("call:end", None):
        pass
    tracing.close(5)
    assert collector.refusals == [400] and collector.spans == []
    assert [(line["event"], line["reason"], line["spans_lost"]) for line in said] == [
        ("traces cannot be sent", "status 400", 1)
    ]
    collector.refusals = []


def test_what_waits_for_a_slow_collector_is_bounded(tracing: Tracer, collector: Collector) -> None:
    collector.open.clear()
    for _ in range(3 * SPANS_MAX):
        with tracing.event("call:end", None):
            pass
    begun = time.monotonic()
    tracing.close(0.2)
    assert time.monotonic() - begun < 1
    collector.open.set()
    time.sleep(0.5)
    assert 0 < len(collector.spans) <= SPANS_MAX + BATCH_MAX


@pytest.mark.parametrize(
    ("head", "above"),
    [
        (b"NATS/1.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n", True),
        (
            b"NATS/1.0\r\nA: b\r\ntraceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03\r\n\r\n",
            True,
        ),
        (b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n", False),
        (b"NATS/1.0\r\ntraceparent: 00-nonsense\r\n\r\n", False),
        (b"NATS/1.0\r\nxtraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n", False),
        (b"NATS/1.0 503\r\n\r\n", False),
        (b"\xff\xfe", False),
    ],
)
async def test_a_request_is_answered_whatever_its_headers_say(
    head: bytes, above: bool, tracing: Tracer, collector: Collector
) -> None:
    async def handle() -> int:
        await asyncio.sleep(0)
        return 7

    assert await tracing.answer("rpc.calls.end", head, handle()) == 7
    tracing.close(5)
    told = [(span.trace, span.parent) for span in collector.spans]
    assert told == ([("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")] if above else [])


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("rpc.calls.initiate", "rpc.calls.initiate"),
        ("rpc.calls.happen.cc-1", "rpc.calls.happen"),
        ("$KV.calls.user.alice", "$KV.calls.user"),
        ("$JS.API.DIRECT.GET.KV_calls.$KV.calls.user.alice", "$JS.API.DIRECT.GET.KV_calls"),
        ("$JS.API.STREAM.MSG.GET.KV_sessions", "$JS.API.STREAM.MSG.GET.KV_sessions"),
        ("event.user.alice.joined", "event.user"),
        ("deadline.set.ring.Zm9v", "deadline.set.ring"),
        ("control.gw-1.-.alive", "control"),
    ],
)
def test_names_of_spans_have_no_ids(subject: str, name: str) -> None:
    assert _family(subject) == name
