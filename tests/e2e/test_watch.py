"""The operator's tools on a running system with calls in flight."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared.observability.traces import trace_of
from tests.support.cluster import Cluster
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage, end, ring, talk
from tests.support.service_process import REPOSITORY
from tests.support.shared_clusters import Clusters
from tests.support.terminal import Terminal

pytestmark = pytest.mark.asyncio(loop_scope="session")

SDP = "v=0\r\no=- 1 1 IN IP4 203.0.113.7\r\n"
ADDRESS = "203.0.113.7"
METADATA = "meta-secret"
SECONDS = 20.0


@pytest_asyncio.fixture(loop_scope="session")
async def stage(big: Cluster, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Python clients on websockets; two of each service."""
    async for stage in Stage.on(big, "python-websocket", driver):
        yield stage


def command(*arguments: str) -> list[str]:
    """``signalling`` with these arguments."""
    return [sys.executable, "-m", "signalling", *arguments]


async def run(cluster: Cluster, *arguments: str, status: int = 0) -> str:
    """Run a tool to its end; what it prints."""
    done = await asyncio.to_thread(
        subprocess.run,
        command(*arguments),
        cwd=REPOSITORY,
        env=cluster.tools_env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status, f"{done.returncode}: {done.stdout.decode()}{done.stderr.decode()}"
    assert b"Traceback" not in done.stderr
    return done.stdout.decode() or done.stderr.decode()


class Tailing:
    """A ``signalling tail`` that runs."""

    def __init__(self, cluster: Cluster, out: Path, *arguments: str) -> None:
        self._out = out
        with out.open("wb") as file:
            self._process = subprocess.Popen(
                command("tail", *arguments),
                cwd=REPOSITORY,
                env=cluster.tools_env(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def text(self) -> str:
        return self._out.read_text()

    async def until(self, pattern: str) -> str:
        """Wait for a line that matches."""
        until = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.text, re.MULTILINE)) is None:
            assert time.monotonic() < until, f"no {pattern} in\n{self.text}"
            assert self._process.poll() is None, self.text
            await asyncio.sleep(0.05)
        return found[0]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(5)


@pytest.fixture
def tails(tmp_path: Path, big: Cluster) -> Iterator["Tails"]:
    """Starts tails."""
    started = Tails(tmp_path, big)
    yield started
    for tail in started.running:
        tail.close()


class Tails:
    """The tails of one test."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self.running: list[Tailing] = []

    async def start(self, *arguments: str) -> Tailing:
        """One that listens already."""
        tail = Tailing(self._cluster, self._folder / f"tail-{len(self.running)}", *arguments)
        self.running.append(tail)
        await tail.until("^following ")
        return tail


# --- tail ---


async def test_tail_shows_a_call_and_hides_what_clients_sent(stage: Stage, tails: Tails) -> None:
    everything = await tails.start()
    raw = await tails.start("--raw")
    alice, bob = await stage.socket("alice"), await stage.socket("bob")
    tokens = [(await each.join(stage.id(each.name)))["resume"]["token"] for each in (alice, bob)]
    call = await ring(alice, bob, metadata={"note": METADATA})
    await bob.ok("call:accept", {"callId": call})
    for client in (alice, bob):
        await client.expect("call:accepted", callId=call)
    offer = {"offer": {"type": "offer", "sdp": SDP}, "from": alice.user, "to": bob.user, "callId": call}
    await alice.ok("call:offer", offer)
    await bob.expect("call:offer", callId=call)
    await end(alice, bob, call=call)
    await everything.until(rf"event\.call\.{call}\.ended .*reason=hangup")
    await everything.until(rf"deliver\..*call:offer .*\({bob.user}\).*offer=<\d+ bytes> from={alice.user}")
    await everything.until(r"rpc\.calls\.initiate .*metadata=<\d+ bytes>")
    assert ADDRESS not in everything.text and METADATA not in everything.text
    await raw.until(rf"call:offer .*{re.escape(ADDRESS)}")
    assert METADATA in raw.text
    assert not any(token in tail.text for tail in (everything, raw) for token in tokens)


async def test_tail_of_one_user_and_of_one_call(stage: Stage, tails: Tails) -> None:
    alice, bob, carol, dave = await stage.many("alice", "bob", "carol", "dave")
    of_bob = await tails.start("--user", bob.user)
    first, other = await ring(alice, bob), await ring(carol, dave)
    of_call = await tails.start("--call", first)
    for caller, callee, call in ((carol, dave, other), (alice, bob, first)):
        await caller.ok("call:end", {"callId": call})
        for client in (caller, callee):
            await client.expect("call:ended", callId=call)
    # The delivery to bob names him nowhere: whose session it is was recorded when he joined.
    await of_bob.until(rf"deliver\..*\.call:ended .*\({bob.user}\)")
    await of_call.until(rf"event\.call\.{first}\.ended")
    for text in (of_bob.text, of_call.text):
        assert other not in text and carol.user not in text


async def test_tail_of_a_subject(stage: Stage, tails: Tails) -> None:
    beats = await tails.start("--subject", "live.>")
    await beats.until(r"live\.gateway\.gw-1.* version=\S+ .*sockets=\d+")
    assert "rpc." not in beats.text


# --- history ---


async def test_history_of_a_call(stage: Stage) -> None:
    alice, bob = await stage.many("alice", "bob")
    call = await talk(alice, bob)
    await asyncio.sleep(0.3)
    going = await run(stage.cluster, "history", call)
    assert "no end recorded" in going
    await end(bob, alice, call=call, reason="hangup")
    told: dict[str, object] = {}
    until = time.monotonic() + SECONDS
    while told.get("endedAt") is None:
        assert time.monotonic() < until
        told = json.loads(await run(stage.cluster, "history", "--json", call))
    assert (told["caller"], told["callee"], told["reason"]) == (alice.user, bob.user, "hangup")
    assert told["endedBy"] == bob.user
    assert told["traceId"] == f"{trace_of(told['callId']):032x}"
    assert isinstance(told["talkedMs"], int) and 300 <= told["talkedMs"] < 20_000
    page = await run(stage.cluster, "history", call)
    assert re.search(
        rf"initiated +{alice.user}\n.*accepted +{bob.user}\n.*ended +{bob.user} \(hangup\)\n", page
    )
    assert re.search(r"^rang .*, talked .*, ended: hangup by ", page, re.MULTILINE)


async def test_history_of_no_call(stage: Stage) -> None:
    assert "no call 'nobody'" in await run(stage.cluster, "history", "nobody", status=1)


# --- probe ---


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_probe_places_a_call(stage: Stage, transport: str) -> None:
    url = stage.cluster.gateways[1].url
    told = json.loads(await run(stage.cluster, "probe", "--url", url, "--transport", transport, "--json"))
    assert told["ok"] is True
    assert [step["name"] for step in told["steps"]] == [
        "connect",
        "join",
        "call:initiate",
        "call:incoming",
        "call:accept",
        "call:offer",
        "call:answer",
        "ice:candidate",
        "call:end",
    ]
    assert all(0 < step["ms"] < 5000 for step in told["steps"])
    try:
        async with asyncio.timeout(SECONDS):  # it has said that it leaves; presence may be busy
            while left := [key for key in await stage.cluster.sessions() if key.startswith("user.probe-")]:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"left behind: {left}") from None


async def test_probe_says_which_step_failed(stage: Stage) -> None:
    out = await run(stage.cluster, "probe", "--url", "http://127.0.0.1:1", status=1)
    assert re.search(r"^connect .* failed: ", out)


async def test_probe_fails_where_services_do_not_answer(stage: Stage) -> None:
    stage.cluster.pause("callcore")
    try:
        url = stage.cluster.gateways[0].url
        out = await run(stage.cluster, "probe", "--url", url, "--timeout", "2", "--json", status=1)
    finally:
        stage.cluster.resume("callcore")
    told = json.loads(out)
    assert told["ok"] is False and told["steps"][-1]["name"] == "call:initiate"
    assert told["steps"][-1]["error"]
    stage.cluster.allowed = ("reconciled",)


# --- monitor ---


async def test_monitor_once(stage: Stage) -> None:
    alice, bob, carol, dave = await stage.many("alice", "bob", "carol", "dave")
    talking, ringing = await talk(alice, bob), await ring(carol, dave)
    looking = asyncio.create_task(run(stage.cluster, "monitor", "--once", "--json"))
    while not looking.done():
        candidate = {
            "candidate": {"candidate": ADDRESS},
            "from": alice.user,
            "to": bob.user,
            "callId": talking,
        }
        await alice.ok("ice:candidate", candidate)
        await bob.expect("ice:candidate")
        await carol.ok("user:status", {"userId": dave.user})
        await carol.expect("user:status")
    out = await looking
    view = json.loads(out)
    assert {each["service"] for each in view["instances"]} == {"gateway", "callcore", "presence"}
    assert len(view["instances"]) == 6
    assert view["users"] >= 4 and view["sockets"] == 4
    calls = {each["call"]: each for each in view["calls"]}
    assert calls[talking]["state"] == "accepted" and calls[talking]["talking"] > 0
    assert calls[ringing]["state"] == "ringing" and calls[ringing]["caller"] == carol.user
    assert all(view["rates"][family] > 1 for family in ("relay", "deliver", "rpc"))
    presences = [each for each in view["instances"] if each["service"] == "presence"]
    assert any(each["rate"] > 1 and 0 < each["ms"] < 1000 for each in presences)
    assert {each["name"] for each in view["streams"]} >= {"DELIVER", "EVENTS", "KV_calls", "KV_sessions"}
    assert view["nats"]["slow_consumers"] == 0 and view["nats"]["connections"] >= 7
    assert ADDRESS not in out
    page = await run(stage.cluster, "monitor", "--once")
    assert talking in page
    await end(alice, bob, call=talking)
    await carol.ok("call:end", {"callId": ringing})
    for client in (carol, dave):
        await client.expect("call:ended", callId=ringing)


async def test_monitor_on_a_terminal(stage: Stage) -> None:
    alice, bob, carol, dave = await stage.many("alice", "bob", "carol", "dave")
    first, second = await talk(alice, bob), await ring(carol, dave)
    terminal = Terminal(command("monitor", "--interval", "0.5"), stage.cluster.tools_env())
    try:
        await asyncio.to_thread(_drive, terminal, first, second, carol.user)
        await end(alice, bob, call=first)
        await asyncio.to_thread(terminal.until, second, gone=first)
        terminal.type("q")
        assert await asyncio.to_thread(terminal.process.wait, 10) == 0
    finally:
        terminal.close()
    await carol.ok("call:end", {"callId": second})
    for client in (carol, dave):
        await client.expect("call:ended", callId=second)


def _drive(terminal: Terminal, first: str, second: str, carol: str) -> None:
    screen = terminal.until(first, second, "gateway", "presence", "DELIVER", "calls by age", "1 ringing")
    assert screen.index(first) < screen.index(second), "the oldest first"
    terminal.type("r")
    terminal.until("calls by age reversed")
    assert terminal.text.index(second) < terminal.text.index(first)
    terminal.type("s")
    terminal.until("calls by state reversed")
    terminal.type("/")
    terminal.until("part of a user or call")
    terminal.type(carol)
    terminal.until("only with", second, gone=first)
    terminal.press("\r", "initiated", "no end recorded")  # out of the filter, then into the call
    terminal.until(f"call {second}")
    if folder := os.environ.get("SCREENS"):
        (Path(folder) / "timeline.txt").write_text(terminal.text)
    terminal.type("\x1b")
    terminal.until("calls by state", gone="no end recorded")
    terminal.type("\x1b")
    terminal.until(first, second)
    if folder := os.environ.get("SCREENS"):
        (Path(folder) / "monitor.txt").write_text(terminal.text)


async def test_monitor_says_that_nats_is_away_and_goes_on(clusters: Clusters) -> None:
    cluster = await clusters.get("1x1x1", ring_seconds=8)
    terminal = Terminal(command("monitor", "--interval", "0.5"), cluster.tools_env())
    try:
        await asyncio.to_thread(terminal.until, "gw-1", "cc-1", "pr-1")
        cluster.kill_nats()
        try:
            await asyncio.to_thread(terminal.until, "what is shown is old")
        finally:
            await asyncio.to_thread(cluster.restart_nats)
        await cluster.ready()
        await asyncio.to_thread(terminal.until, "gw-1", "cc-1", "pr-1", gone="what is shown is old")
        terminal.type("q")
        assert await asyncio.to_thread(terminal.process.wait, 10) == 0
    finally:
        terminal.close()


async def test_monitor_without_a_terminal(stage: Stage) -> None:
    assert "--once" in await run(stage.cluster, "monitor", status=2)
