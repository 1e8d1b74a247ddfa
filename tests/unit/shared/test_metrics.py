"""Counting, and what Prometheus makes of it; what metrics are called; that what refers to them refers to some."""

import asyncio
import re
import time
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.observability import loop_lag, metrics
from shared.observability.metrics import (
    Histogram,
    Metric,
    MetricKind,
    counter,
    gauge,
    histogram,
    registry_of,
    with_zeros,
)
from signalling.docgen import dashboard
from tests.support.virtual_time import VirtualTimeLoop, virtual_time

ROOT = Path(__file__).parents[3]
SERVICES = ("gateway", "callcore", "presence")
MODULES = ("shared.service.process_metrics", *(f"services.{service}.metrics" for service in SERVICES))
DECLARED = [metric for name in MODULES for metric in metrics.declared(import_module(name))]
LABELS = {
    "service", "version", "name", "error", "direction", "verb", "limit", "outcome", "bucket", "operation", "kind",
    "transport", "result", "event", "code", "type", "reason", "state", "what", "how",
}  # fmt: skip


def test_a_histogram_counts_up_to_each_bound() -> None:
    spread = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        spread.observe(value)
    assert spread.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert (spread.count, spread.sum) == (4, 10.0)


def test_what_is_timed_counts_also_if_it_fails() -> None:
    spread = Histogram((0.01, 5.0))

    def fail() -> None:
        with spread.timed():
            time.sleep(0.02)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert spread.buckets() == [("0.01", 0.0), ("5.0", 1.0), ("+Inf", 1.0)]


def test_metrics_are_read_when_they_are_asked_for() -> None:
    counts, spread = {"a": 1}, Histogram((1.0,))
    registry = registry_of(
        {counter("x_total", "X.", "kind"): lambda: with_zeros("ab", counts)},
        {
            gauge("y", "Y."): lambda: len(counts),
            histogram("z_seconds", "Z.", "how", "why"): lambda: {("p", "q"): spread},
        },
    )  # fmt: skip
    counts["c"], counts["a"] = 5, 2
    spread.observe(0.5)
    samples = {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert {key: value for key, value in samples.items() if key[0][0] in "xyz"} == {
        ("x_total", "a"): 2, ("x_total", "b"): 0, ("x_total", "c"): 5, ("y",): 2,
        ("z_seconds_bucket", "p", "1.0", "q"): 1, ("z_seconds_bucket", "p", "+Inf", "q"): 1,
        ("z_seconds_count", "p", "q"): 1, ("z_seconds_sum", "p", "q"): 0.5,
    }  # fmt: skip
    assert samples["process_resident_memory_bytes",] > 0


@virtual_time
async def test_a_loop_that_is_held_up_shows() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    late = loop_lag.LoopLag()
    late.start()
    await asyncio.sleep(0.25)
    assert late.late.count == 2
    loop.hold_up(0.4)
    await asyncio.sleep(0.01)
    late.stop()
    over = dict(late.late.buckets())
    assert over["+Inf"] - over["0.25"] == 1 and late.late.sum > 0.25
    count = late.late.count
    await asyncio.sleep(0.15)
    assert late.late.count == count


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_what_metrics_are_called(metric: Metric) -> None:
    assert re.fullmatch(r"signalling_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") is (metric.kind is MetricKind.COUNTER)
    assert metric.kind is not MetricKind.HISTOGRAM or metric.name.endswith("_seconds")
    assert set(metric.labels) <= LABELS
    assert metric.help.endswith(".")
    assert [other for other in DECLARED if other.name == metric.name] == [metric]


def _referred(text: str) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bsignalling_[a-z_]+", text)}


@pytest.mark.parametrize("file", ["rules.yml", "dashboard", "docs/operations.md"])
def test_what_is_referred_to_is_there(file: str) -> None:
    if file == "dashboard":
        text = " ".join(
            q.expr for panels in dashboard.ROWS.values() for panel in panels for q in panel.queries
        )
    else:
        text = next(ROOT.glob(f"**/{file}")).read_text()
    known = {metric.name for metric in DECLARED}
    assert _referred(text) and _referred(text) <= known


def test_every_metric_of_ours_has_a_picture_or_an_alert_or_none_on_purpose() -> None:
    shown = dashboard.dashboard() + (ROOT / "deploy/prometheus/rules.yml").read_text()
    unseen = {metric.name for metric in DECLARED} - _referred(shown)
    assert unseen == {
        "signalling_info", "signalling_lease_held", "signalling_members", "signalling_recoveries",
        "signalling_unread_clients", "signalling_nats_bytes_total", "signalling_errands_given_up_total",
    }  # fmt: skip


def test_the_limits_have_the_names_of_the_table() -> None:
    table = re.findall(r"^\|.*\| ([^|]*) \|$", (ROOT / "SECURITY.md").read_text(), re.M)
    named = {name for cell in table for name in re.findall(r"^`([a-z_]+)`$", cell)}
    limits = {name for service in SERVICES for name in import_module(f"services.{service}.metrics").LIMITS}
    assert named == limits
