"""Prometheus reads a running system: every picture of the dashboard shows something, every alert is a question.

Debian's ``prometheus`` brings both programs; where they are not, these tests are skipped.
"""

import asyncio
import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from signalling.docgen import dashboard
from signalling.run.nats_server import EmbeddedNats
from tests.integration.up.conftest import ROOT, Running
from tests.support.cluster import free_port
from tests.support.nats_exporter import NatsExporter
from tests.support.raw_client import RawClient

PROMETHEUS = ROOT / "deploy/prometheus"
RULES = (PROMETHEUS / "rules.yml").read_text()
ALERTS = re.findall(r"^      - alert: (\w+)$", RULES, re.M)
RATE_INTERVAL = "10s"
PATIENCE_SECONDS = 60.0
OF_A_BUSY_MACHINE = {"LoopLags", "SetupSlow", "StoreSlow"}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
    ),
]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_promtool_takes_configuration_rules_and_their_tests() -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool(
        "check", "config", str(PROMETHEUS / "prometheus.yml")
    )
    promtool("check", "rules", "--lint-fatal", str(PROMETHEUS / "rules.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))


async def test_every_alert_has_a_test_and_a_word_of_what_to_do() -> None:
    tests = (PROMETHEUS / "rules_test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n *eval_time: \w+\n *exp_alerts:\n", tests))
    quiet = set(re.findall(r"alertname: (\w+), eval_time: \w+, exp_alerts: \[\]", tests))
    assert fired == quiet == set(ALERTS)
    told = re.findall(r"^\| `(\w+)` \| (page|ticket) \|", (ROOT / "docs/operations.md").read_text(), re.M)
    assert told == re.findall(r"- alert: (\w+)\n(?:.*\n)+?        labels: \{severity: (\w+)\}", RULES)


class Watched(NamedTuple):
    """A running system with people in it, and the Prometheus that reads it."""

    url: str

    async def get(self, path: str, **params: str) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/api/v1/{path}", params=params) as answer,
        ):
            body = await answer.json()
            assert body["status"] == "success", body
            return body["data"]

    async def query(self, expr: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = (await self.get("query", query=expr))["result"]
        return result


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    nats = EmbeddedNats(folder / "nats", monitored=True)
    nats.start()
    exporter = NatsExporter(nats.monitor)
    await exporter.start()
    up = Running(
        folder / "up", "--port", "0", "--nats", nats.url, "--gateways", "2", "--callcores", "2", "--presences", "2",
        command=[sys.executable, "-m", "signalling", "up"],
        RESUME_WINDOW_SECONDS="2", SWEEP_SECONDS="1", DRAIN_SECONDS="0", RATE_LIMIT="off",
    )  # fmt: skip
    prometheus: subprocess.Popen[bytes] | None = None
    people: asyncio.Task[None] | None = None
    try:
        gateways = await asyncio.to_thread(up.ready)
        port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(_config(up.out, exporter.target, port))
        with (folder / "prometheus.log").open("ab") as log:
            prometheus = subprocess.Popen(
                [
                    "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        people = asyncio.create_task(_live(gateways))
        watched = Watched(f"http://127.0.0.1:{port}")
        await _until_read(watched, folder / "prometheus.log")
        yield watched
        assert not people.done(), people.exception()
    finally:
        if people is not None:
            people.cancel()
            await asyncio.gather(people, return_exceptions=True)
        if prometheus is not None:
            prometheus.kill()
            prometheus.wait(10)
        await exporter.stop()
        if up.process.poll() is None:
            await asyncio.to_thread(up.stop)
        nats.kill()


def _config(said: str, nats_exporter: str, own_port: int) -> str:
    """``prometheus.yml`` with addresses in the place of names that Docker would find, and shorter times."""
    (line,) = re.findall(r"^metrics: (.*)$", said, re.M)
    targets: dict[str, list[str]] = {"nats": [nats_exporter]}
    for name, address in re.findall(r"(\w+)-\d+=http://([^/]+)/metrics", line):
        targets.setdefault(name, []).append(address)
    assert [len(targets[job]) for job in ("gateway", "callcore", "presence")] == [2, 2, 2]

    def static(match: re.Match[str]) -> str:
        return (
            f"- job_name: {match[1]}\n    static_configs: [{{targets: {json.dumps(targets.pop(match[1]))}}}]"
        )

    text = (PROMETHEUS / "prometheus.yml").read_text()
    text = re.sub(r"- job_name: (\w+)\n    dns_sd_configs: .*", static, text)
    assert not targets and "dns_sd" not in text
    text = text.replace("localhost:9090", f"127.0.0.1:{own_port}").replace("interval: 15s", "interval: 1s")
    return text.replace("[rules.yml]", json.dumps([str(PROMETHEUS / "rules.yml")]))


async def _until_read(watched: Watched, log: Path) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError, AssertionError):
                targets = (await watched.get("targets"))["activeTargets"]
                assert all(target["health"] == "up" for target in targets), targets
                assert len(targets) == 8, targets
                return
            assert "err=" not in (said := await asyncio.to_thread(log.read_text)), said
            await asyncio.sleep(0.2)


async def _live(gateways: list[str]) -> None:
    """People come, call each other, lose their connection, come back, and go, until it is over."""
    for number in range(1_000_000):
        await _meet(gateways, f"a{number}", f"b{number}")
        await asyncio.sleep(0.3)


async def _meet(gateways: list[str], one: str, other: str) -> None:
    a, b, again = RawClient(one), RawClient(other), RawClient(other)
    try:
        await asyncio.gather(a.connect(gateways[0]), b.connect(gateways[1]), again.connect(gateways[0]))
        await a.join(one)
        joined = await b.join(other)
        await a.ok("user:status", {"userId": other})
        await a.refused("call:initiate", {"to": f"nobody-{one}", "callType": "audio"}, code="user_not_found")
        placed = await a.ok("call:initiate", {"to": other, "callType": "audio"})
        await a.ok("call:end", {"callId": placed["callId"]})
        placed = await a.ok("call:initiate", {"to": other, "callType": "video"})
        call = {"callId": placed["callId"]}
        await b.ok("call:accept", call)
        await a.ok("call:offer", {"offer": {"type": "offer", "sdp": "v=0"}, "from": one, "to": other, **call})
        await b.ok(
            "call:answer", {"answer": {"type": "answer", "sdp": "v=0"}, "from": other, "to": one, **call}
        )
        for n in range(3):
            await a.emit("ice:candidate", {"candidate": {"n": n}, "from": one, "to": other, **call})
        await b.expect("ice:candidate")
        await b.tear()
        resume = {
            "sessionId": joined["sessionId"],
            "token": joined["resume"]["token"],
            "lastSeq": joined["seq"],
        }
        await again.ok("user:join", {"userId": other, "resume": resume})
        await asyncio.sleep(0.3)
        await again.ok("call:end", call)
        await again.disconnect()
    finally:
        for client in (a, b, again):
            await client.close()


QUERIES = [
    pytest.param(query.expr, id=f"{panel.title}: {query.legend}")
    for panels in dashboard.ROWS.values()
    for panel in panels
    for query in panel.queries
]


@pytest.mark.parametrize("expr", QUERIES)
async def test_every_picture_has_something_to_show(watched: Watched, expr: str) -> None:
    expr = expr.replace("$__rate_interval", RATE_INTERVAL)
    assert "$" not in expr
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(math.isfinite(float(series["value"][1])) for series in await watched.query(expr)):
            await asyncio.sleep(0.25)


async def test_the_dashboard_shows_just_these() -> None:
    shown = json.loads((ROOT / "deploy/grafana/dashboards/signalling.json").read_text())
    exprs = [target["expr"] for panel in shown["panels"] for target in panel.get("targets", ())]
    assert exprs == [param.values[0] for param in QUERIES]
    assert len({panel["id"] for panel in shown["panels"]}) == len(shown["panels"])
    source = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    uids = {panel["datasource"]["uid"] for panel in shown["panels"] if "datasource" in panel}
    assert uids == set(re.findall(r"^    uid: (\w+)$", source, re.M))


async def test_every_alert_is_evaluated_and_none_is_raised(watched: Watched) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            (group,) = (await watched.get("rules"))["groups"]
            rules = group["rules"]
            assert [rule["name"] for rule in rules] == ALERTS
            assert not [rule for rule in rules if rule["health"] == "err"], rules
            raised = {rule["name"] for rule in rules if rule["state"] != "inactive"} - OF_A_BUSY_MACHINE
            if all(rule["health"] == "ok" for rule in rules) and not raised:
                break
            await asyncio.sleep(0.2)
    for rule in rules:
        await watched.query(rule["query"])


@pytest.mark.parametrize("alert", ALERTS)
async def test_what_an_alert_looks_at_is_there(watched: Watched, alert: str) -> None:
    """An alert on something that nobody serves would be quiet for ever."""
    (group,) = (await watched.get("rules"))["groups"]
    (query,) = [rule["query"] for rule in group["rules"] if rule["name"] == alert]
    names = set(re.findall(r"\b((?:signalling|gnatsd|jetstream|process)_\w+|up)\b(?=[{\[ )]|$)", query))
    assert names
    async with asyncio.timeout(PATIENCE_SECONDS):
        for name in names:
            while not await watched.query(name):
                await asyncio.sleep(0.25)
