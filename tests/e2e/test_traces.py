"""Traces of real calls at a collector: one for each call, from socket to socket; and none of it where they are off."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from shared.observability.traces import trace_of
from signalling.nats_users import MONITOR
from tests.support.cluster import Cluster, free_port
from tests.support.collector import Collector, Span, collecting
from tests.support.scenario import Stage, end, ring, talk

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = 12
TOLD = (
    ("call:initiate", "gw-1", "deliver call:incoming", "gw-2"),
    ("call:initiate", "gw-1", "deliver call:initiated", "gw-1"),
    ("call:accept", "gw-2", "deliver call:accepted", "gw-1"),
    ("call:accept", "gw-2", "deliver call:accepted", "gw-2"),
    ("call:end", "gw-1", "deliver call:ended", "gw-1"),
    ("call:end", "gw-1", "deliver call:ended", "gw-2"),
)
"""What a client sends, to which gateway, and what is written to a socket because of it, where."""

SECONDS = 10.0


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[Cluster]:
    """Two gateways, two callcores, one presence."""
    cluster = Cluster(folder, gateways=2, callcores=2, **settings)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


def on(cluster: Cluster) -> AbstractAsyncContextManager[Stage]:
    """Python clients on websockets."""
    return asynccontextmanager(Stage.on)(cluster, "python-websocket", None)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A system whose traces go to the collector."""
    async with running(tmp_path_factory.mktemp("traced"), TRACES_ENDPOINT=collector.url) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="session")
async def stage(traced: Cluster) -> AsyncIterator[Stage]:
    async with on(traced) as stage:
        yield stage


async def whole(collector: Collector, call: str, *names: str) -> list[Span]:
    """The trace of a call, once there are spans of these names (``at`` an instance), and all those above them."""
    trace = f"{trace_of(call):032x}"
    until = time.monotonic() + SECONDS
    while True:
        spans = collector.trace(trace)
        there = {span.id for span in spans}
        known = {name for span in spans for name in (span.name, f"{span.name} at {span.service[:4]}")}
        missing = [name for name in names if name not in known]
        orphans = [span for span in spans if span.parent and span.parent not in there]
        if not missing and not orphans:
            return spans
        assert time.monotonic() < until, f"no {missing}, nothing above {orphans}; there are {spans}"
        await asyncio.sleep(0.1)


def above(spans: list[Span], span: Span) -> list[Span]:
    """From the root of a trace to a span."""
    by_id = {each.id: each for each in spans}
    line = [span]
    while line[0].parent:
        line.insert(0, by_id[line[0].parent])
    return line


def only(spans: list[Span], name: str, service: str) -> Span:
    """The one span of that name that this instance made."""
    (span,) = [span for span in spans if (span.name, span.service[:4]) == (name, service)]
    return span


async def test_a_call_is_one_trace_from_socket_to_socket(stage: Stage, collector: Collector) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = await stage.user("bob", gateway=1)
    hops = set()
    for _ in range(CALLS):
        call = await talk(alice, bob)
        await end(alice, bob, call=call)
        spans = await whole(
            collector,
            call,
            *("call:initiate", "call:accept", "call:end", "deadline.set.ring"),
            *(f"{told} at {at}" for _, _, told, at in TOLD),
        )
        root = spans[0]
        assert (root.name, root.service[:4], root.parent) == ("call:initiate", "gw-1", "")
        assert root.id == root.trace[:16]
        assert root.attributes == {"call.id": call}
        for event, by, told, at in TOLD:
            line = above(spans, only(spans, told, at))
            assert [span.begun for span in line] == sorted(span.begun for span in line)
            path = [(span.name, span.service[:4]) for span in line if span is not root or event == root.name]
            asked, decided = path[2][1], path[-2][1]
            verb = f"rpc.calls.{event.removeprefix('call:')}"
            passed_on = "rpc.calls.initiate" if event == root.name else "rpc.calls.happen"
            hop = [(passed_on, asked), (passed_on, decided)] if asked != decided else []
            assert path == [(event, by), (verb, by), (verb, asked), *hop, (told, at)]
            hops.add(bool(hop))
        assert not any(span.failed for span in spans), spans
    assert hops == {False, True}, "all calls were asked of the instance in charge, or none"
    assert collector.wrong == []


async def test_no_span_says_who_the_users_are(stage: Stage, collector: Collector) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = await stage.user("bob", gateway=1)
    call = await talk(alice, bob)
    await alice.refused("call:initiate", {"to": bob.user, "callType": "audio"}, code="already_in_call")
    await end(alice, bob, call=call)
    await whole(collector, call, "call:end")
    everything = repr(collector.spans)
    for client in (alice, bob):
        assert client.user not in everything and client.session not in everything
    refused = [span for span in collector.spans if span.attributes.get("error.type") == "already_in_call"]
    assert {span.name for span in refused} >= {"call:initiate", "rpc.calls.initiate"}
    assert not any(span.failed for span in refused), "a refusal is the client's affair"


async def test_services_say_who_they_are(stage: Stage, collector: Collector) -> None:
    alice = await stage.user("alice", gateway=0)
    bob = await stage.user("bob", gateway=1)
    call = await talk(alice, bob)
    await end(alice, bob, call=call)
    await whole(collector, call, "call:end")
    assert {name[:4] for name in collector.resources} >= {"gw-1", "gw-2", "pr-1"}
    for resource in collector.resources.values():
        assert resource["service.namespace"] == "hellotalk-signalling"
        assert resource["service.name"] in ("gateway", "callcore", "presence")
        assert resource["service.version"]
    assert {"user:join", "rpc.presence.join"} <= {span.name for span in collector.spans}


async def test_a_ring_timeout_and_an_answer_that_accepts_are_in_the_trace_of_their_call(
    collector: Collector, tmp_path: Path
) -> None:
    async with (
        running(tmp_path, TRACES_ENDPOINT=collector.url, RING_TIMEOUT_SECONDS="1") as cluster,
        on(cluster) as stage,
    ):
        alice, bob = await stage.many("alice", "bob")
        call = await ring(alice, bob)
        for client in (alice, bob):
            await client.expect("call:ended", callId=call, reason="timeout")
        spans = await whole(collector, call, "ring timeout", "deliver call:ended")
        line = above(spans, next(span for span in spans if span.name == "deliver call:ended"))
        assert [span.name for span in line[:2]] == ["call:initiate", "ring timeout"]

        call = await ring(alice, bob)
        answer = {"answer": {"type": "answer", "sdp": "v=0"}, "from": bob.user, "to": alice.user}
        await bob.ok("call:answer", answer | {"callId": call})
        for client in (alice, bob):
            await client.expect("call:accepted", callId=call)
        await alice.expect("call:answer", callId=call)
        await end(alice, bob, call=call)
        spans = await whole(collector, call, "call:answer", "deliver call:accepted", "call:end")
        line = above(spans, next(span for span in spans if span.name == "deliver call:accepted"))
        assert [span.name for span in line[:2]] == ["call:initiate", "call:answer"]
        assert "deliver call:answer" not in {span.name for span in spans}


async def heard(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Headers of what passes on the bus while there is a call with an offer: by subject."""
    found: dict[str, dict[str, str]] = {}
    seen: set[str] = set()

    async def note(msg: object) -> None:
        seen.add(msg.subject)  # type: ignore[attr-defined]
        if msg.headers:  # type: ignore[attr-defined]
            found[msg.subject] = dict(msg.headers)  # type: ignore[attr-defined]

    async with cluster.access.connect(MONITOR) as client:
        for subject in ("deliver.>", "relay.>", "rpc.>", "receipt.>", "acks.>", "control.>", "live.>"):
            await client.subscribe(subject, cb=note)
        await client.flush()
        async with on(cluster) as stage:
            alice, bob = await stage.many("alice", "bob")
            call = await talk(alice, bob)
            for n in range(3):
                candidate = {"candidate": {"n": n}, "from": alice.user, "to": bob.user, "callId": call}
                await alice.ok("ice:candidate", candidate)
                await bob.expect("ice:candidate", callId=call)
            await end(alice, bob, call=call)
            for client_ in (alice, bob):
                await client_.ok("user:status", {"userId": alice.user})
                await client_.expect("user:status")
        await asyncio.sleep(0.2)
    kinds = {subject.split(".")[0] for subject in seen}
    assert kinds >= {"deliver", "relay", "rpc"}, kinds
    assert any(subject.endswith(".ice:candidate") for subject in seen)
    return found


async def test_what_is_traced_is_told_in_requests_and_deliveries_and_never_in_relays(traced: Cluster) -> None:
    headers = await heard(traced)
    assert all(list(each) == ["traceparent"] for each in headers.values())
    assert {subject.split(".")[0] for subject in headers} == {"rpc", "deliver"}
    assert not any(subject.endswith(".ice:candidate") for subject in headers)
    assert any(subject.endswith(".call:incoming") for subject in headers)


async def test_where_traces_are_off_or_nothing_is_sampled_no_message_has_headers(tmp_path: Path) -> None:
    (tmp_path / "off").mkdir()
    async with running(tmp_path / "off") as cluster:
        assert await heard(cluster) == {}
    with collecting() as collector:
        (tmp_path / "none").mkdir()
        async with running(tmp_path / "none", TRACES_ENDPOINT=collector.url, TRACES_RATIO="0") as cluster:
            assert await heard(cluster) == {}
    assert collector.spans == []


async def test_half_of_the_calls_are_traced_whole_and_the_others_not_at_all(tmp_path: Path) -> None:
    with collecting() as collector:
        async with running(tmp_path, TRACES_ENDPOINT=collector.url, TRACES_RATIO="0.5") as cluster:
            calls = []
            async with on(cluster) as stage:
                alice, bob = await stage.many("alice", "bob")
                for _ in range(24):
                    call = await talk(alice, bob)
                    await end(alice, bob, call=call)
                    calls.append(call)
        # Services have ended, so all has been sent.
        traces = [collector.trace(f"{trace_of(call):032x}") for call in calls]
        for spans in filter(None, traces):
            names = [span.name for span in spans]
            assert {"call:initiate", "call:accept", "call:end"} <= set(names)
            assert names.count("deliver call:ended") == 2
        assert 0 < len([spans for spans in traces if spans]) < len(calls)


@pytest.mark.parametrize("there", ["nobody", "silent"])
async def test_a_collector_that_does_not_answer_does_no_harm(there: str, tmp_path: Path) -> None:
    with collecting(silent=True) as collector:
        url = collector.url if there == "silent" else f"http://127.0.0.1:{free_port()}/v1/traces"
        async with running(tmp_path, TRACES_ENDPOINT=url) as cluster:
            slowest = 0.0
            async with on(cluster) as stage:
                alice, bob = await stage.many("alice", "bob")
                until = time.monotonic() + 8
                while time.monotonic() < until:
                    begun = time.monotonic()
                    call = await talk(alice, bob)
                    await end(alice, bob, call=call)
                    slowest = max(slowest, time.monotonic() - begun)
            assert slowest < 1.0
            begun = time.monotonic()
        stopped = time.monotonic() - begun
        assert stopped < 8, f"stopping took {stopped} s"
    for log in sorted(tmp_path.glob("*.log")):  # noqa: ASYNC240
        lines = log.read_text().splitlines()
        about = [line for line in lines if "trace" in line.lower() or "export" in line.lower()]
        assert all("traces cannot be sent" in line and f'"{log.stem}' in line for line in about), about
        assert len(about) == 1 if log.stem != "presence-1" else len(about) <= 1, (log.name, about)
    cluster.check_logs()
