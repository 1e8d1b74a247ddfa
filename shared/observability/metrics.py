"""Serve metrics to Prometheus: declared as constants, and read from the parts that count on each scrape.

Nothing is counted for Prometheus alone: parts keep plain numbers, :class:`Histogram` where a distribution is wanted,
and each service's ``metrics`` module says which number is which metric. Every start of a service has a registry of
its own. Labels are a few fixed words: no user, call, session or address is ever one.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from shared.observability import response_headers

FAST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds for what takes milliseconds when all is well."""
STOP_SECONDS = 1.0
"""Seconds that a stop waits for an answer under way."""


class Histogram:
    """Counts values by ``bounds``, and sums them."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = FAST_SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds that the block takes, also if it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begun)

    @property
    def count(self) -> int:
        """Return how many values were counted."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return ``(bound, count of values up to it)``; the last bound is infinite."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class MetricKind(StrEnum):
    """The kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """Declares a metric; docs/metrics.md is generated from it."""

    kind: MetricKind
    name: str
    help: str
    labels: tuple[str, ...]


def counter(name: str, help_: str, *labels: str) -> Metric:
    """Declare a number that only grows; its name ends with ``_total``."""
    return Metric(MetricKind.COUNTER, name, help_, labels)


def gauge(name: str, help_: str, *labels: str) -> Metric:
    """Declare a number that goes up and down."""
    return Metric(MetricKind.GAUGE, name, help_, labels)


def histogram(name: str, help_: str, *labels: str) -> Metric:
    """Declare a distribution; its values are :class:`Histogram`."""
    return Metric(MetricKind.HISTOGRAM, name, help_, labels)


Value = float | Histogram
Values = Value | Mapping[Any, Value]
"""A value; or one for each value of the metric's label, or for each tuple of values of its labels."""
Read = Callable[[], Values]
"""Returns the current value of a metric."""
Reads = dict[Metric, Read]


class Parts(Collector):
    """Reads all metrics on each scrape, which has to run in the event loop of the parts."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Yield each metric with its current value."""
        for metric, read in self._reads.items():
            yield _family(metric, read())


def _family(
    metric: Metric, values: Values
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    each = values if isinstance(values, Mapping) else {(): values}
    named = [((labels,) if isinstance(labels, str) else labels, value) for labels, value in each.items()]
    if metric.kind is MetricKind.HISTOGRAM:
        spread = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in named:
            assert isinstance(value, Histogram), metric.name
            spread.add_metric(labels, value.buckets(), value.sum)
        return spread
    family = (CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in named:
        assert not isinstance(value, Histogram) and len(labels) == len(metric.labels), metric.name
        family.add_metric(labels, value)
    return family


def registry_of(*reads: Reads) -> CollectorRegistry:
    """Return a registry with these metrics, and those of the process and of the garbage collector."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    for each in reads:
        registry.register(Parts(each))
    return registry


def declared(module: ModuleType) -> list[Metric]:
    """Return the metrics that a module declares, in its order."""
    return [value for value in vars(module).values() if isinstance(value, Metric)]


def with_zeros(names: Iterable[Any], counts: Mapping[Any, int]) -> dict[Any, int]:
    """Return ``counts`` with a zero for each name without a count, so that Prometheus computes a rate of 0."""
    return {**dict.fromkeys(names, 0), **counts}


async def serve(host: str, port: int, registry: CollectorRegistry) -> web.AppRunner:
    """Serve ``GET /metrics`` on a port of its own, so that publishing a service does not publish it. Port 0: none.

    ``cleanup()`` the runner to stop it. Raises ``OSError`` for a port that is taken.
    """

    async def answer(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.on_response_prepare.append(response_headers.on_prepare)
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    if port:
        await web.TCPSite(runner, host, port).start()
    return runner
