"""Format measured figures as a table: medians, ratios of pairs, and the bars that they reach. Pure."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

Rounds = dict[str, list[dict[str, float] | None]]
"""Maps a server to its figures of each round; ``None`` where it could not be measured."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Describes one line. ``bars``: server → the highest ratio allowed (the lowest, if ``more`` is better)."""

    mode: str
    key: str
    label: str
    more: bool = False
    bars: dict[str, float] = field(default_factory=dict)
    at_most: float | None = None
    """Bar for our own figure."""

    def reached(self, value: float, bar: float) -> bool:
        """Return True if a ratio, or a figure of ours, reaches its bar."""
        return value >= bar if self.more else value <= bar


METRICS = (
    Metric("relay", "cpu_us", "CPU per relay, µs", bars={"redis": 0.9, "node": 3.0}),
    Metric("relay", "per_s", "relays/s at saturation", more=True, bars={"redis": 1.1}),
    Metric("relay", "wakeups", "wake-ups per relay"),
    Metric("latency", "p50_ms", "there and back at a steady rate, p50, ms", bars={"redis": 1.3}),
    Metric("latency", "p99_ms", "there and back at a steady rate, p99, ms", bars={"redis": 1.0}),
    Metric("latency", "cpu_us", "CPU per relay at a steady rate, µs"),
    Metric("latency", "wakeups", "wake-ups per relay at a steady rate"),
    Metric("calls", "cpu_us", "CPU per whole call, µs", bars={"redis": 1.0}),
    Metric("calls", "per_s", "whole calls/s", more=True),
    Metric("calls", "setup_p50_ms", "call set-up, p50, ms"),
    Metric("calls", "setup_p99_ms", "call set-up, p99, ms", bars={"redis": 1.0}),
    Metric("idle", "pss_kib", "memory per idle socket, KiB PSS", at_most=20.0),
    Metric("idle", "base_mib", "memory with 100 sockets, MiB PSS"),
    Metric("idle", "cpu_percent_1000", "CPU of 1,000 idle sockets, % of a core"),
    Metric("joins", "cpu_us", "CPU per join, µs", bars={"redis": 1.0}),
    Metric("joins", "both_us", "CPU per connection and join, µs"),
)

_SHARES = (
    ("relay", "cpu_us"),
    ("relay", "wakeups"),
    ("latency", "cpu_us"),
    ("latency", "wakeups"),
    ("calls", "cpu_us"),
    ("joins", "cpu_us"),
    ("idle", "pss_kib"),
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Describes our figure divided by another's, in each round in which both were measured."""

    metric: Metric
    other: str
    each: list[float]
    bar: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    @property
    def reached(self) -> bool | None:
        """Return True if the ratio reaches its bar, ``None`` without a bar."""
        return None if self.bar is None else self.metric.reached(self.median, self.bar)


def median(rounds: Rounds, server: str, key: str) -> float | None:
    """Return the median of a figure over the rounds; ``None`` if it was never measured."""
    values = [figures[key] for figures in rounds.get(server, []) if figures is not None and key in figures]
    return statistics.median(values) if values else None


def ratio(metric: Metric, rounds: Rounds, one: str, other: str) -> Ratio | None:
    """Return ``one`` divided by ``other``, round by round; ``None`` if no round has both."""
    each = [
        a[metric.key] / b[metric.key]
        for a, b in zip(rounds.get(one, []), rounds.get(other, []), strict=False)
        if a is not None and b is not None and b.get(metric.key)
    ]
    return Ratio(metric, other, each, metric.bars.get(other)) if each else None


def ratios(results: dict[str, Rounds], servers: list[str]) -> list[Ratio]:
    """Return the ratios of the first server to each other one, line by line."""
    found = [
        ratio(metric, results[metric.mode], servers[0], other)
        for metric in METRICS
        if metric.mode in results
        for other in servers[1:]
    ]
    return [each for each in found if each is not None]


def table(results: dict[str, Rounds], servers: list[str]) -> str:
    """Return mode → rounds as Markdown. The other servers are compared with the first of ``servers``."""
    one, *others = servers
    head = ["", *servers, *(f"{one} / {other} (least–most)" for other in others)]
    if one == "ours" and set(others) & {"redis", "node"}:
        head.append("bar")
    lines = [row(head), row(["---", *("---:" for _ in head[1:])])]
    for metric in METRICS:
        if metric.mode not in results:
            continue
        rounds = results[metric.mode]
        cells = [metric.label, *(number(median(rounds, server, metric.key)) for server in servers)]
        compared = [ratio(metric, rounds, one, other) for other in others]
        cells += ["" if each is None else _ratio(each) for each in compared]
        if head[-1] == "bar":
            cells.append(_bar(metric, median(rounds, one, metric.key), compared))
        lines.append(row(cells))
    return "\n".join(lines)


def shares(results: dict[str, Rounds], servers: list[str]) -> str:
    """Return CPU and memory by role as Markdown: medians, so they need not add up. ``client`` is the benchmark."""
    lines = [row(["", "server", "all", "of it"]), row(["---", "---", "---:", "---"])]
    for mode, key in _SHARES:
        label = next(m.label for m in METRICS if (m.mode, m.key) == (mode, key))
        for server in servers:
            rounds = results.get(mode, {})
            if (whole := median(rounds, server, key)) is None:
                continue
            names = {name for figures in rounds[server] if figures for name in figures}
            parts = {
                name.removeprefix(f"{key}."): median(rounds, server, name) or 0.0
                for name in names
                if name.startswith(f"{key}.")
            }
            client = parts.pop("client", None)
            text = ", ".join(
                f"{role} {number(parts[role])}" for role in sorted(parts, key=parts.__getitem__)[::-1]
            )
            if client is not None:
                text += f"; client {number(client)} beside it"
            lines.append(row([label, server, number(whole), text]))
    return "\n".join(lines)


def disturbance(results: dict[str, Rounds]) -> str:
    """Return in words how much of the machine other processes used meanwhile."""
    texts = []
    for name, who in (("cores.others", "other processes"), ("cores.stolen", "the host")):
        values = [
            figures[name]
            for rounds in results.values()
            for each in rounds.values()
            for figures in each
            if figures is not None and name in figures
        ]
        if values:
            texts.append(f"{who} {statistics.median(values):.2f} cores (at most {max(values):.2f})")
    return f"Taken meanwhile by {' and by '.join(texts)}." if texts else ""


def _bar(metric: Metric, own: float | None, compared: Iterable[Ratio | None]) -> str:
    sign = "≥" if metric.more else "≤"
    texts = [
        f"{sign} {each.bar:g} × {each.other}: {'yes' if each.reached else '**no**'}"
        for each in compared
        if each is not None and each.bar is not None
    ]
    if metric.at_most is not None and own is not None:
        texts.append(f"≤ {metric.at_most:g}: {'yes' if own <= metric.at_most else '**no**'}")
    return ", ".join(texts)


def _ratio(value: Ratio) -> str:
    return f"{value.median:.2f} ({min(value.each):.2f}–{max(value.each):.2f})"


def number(value: float | None) -> str:
    """Return a figure as the table shows it."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def row(cells: list[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"
