"""Format what :mod:`bench.growth` measured, as a table and as a picture. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.measure import Figures
from bench.table import number, row


@dataclass(frozen=True, slots=True)
class Step:
    """Describes one number of live calls beside one of idle sockets.

    ``rest``: nothing relayed, per measurement. ``steady``, ``full``: per relay.
    """

    calls: int
    idle: int
    rest: Figures
    steady: Figures
    full: Figures

    def net(self, figures: Figures, role: str = "") -> float:
        """Return microseconds a relay, less the idle cost of the system; of one role, or of all."""
        key = f"cpu_us.{role}" if role else "cpu_us"
        # At rest it is for the whole time that was measured, and the share of a core in that time is what counts.
        share = self.rest["cores"] * self.rest[key] / self.rest["cpu_us"] if self.rest["cpu_us"] else 0.0
        return figures[key] - share / figures["per_s"] * 1e6


ROLES = ("gateway", "callcore", "nats", "presence")


def table(steps: list[Step]) -> str:
    """Return the table in Markdown. CPU of all servers; a relay's is its addition to the idle cost of the system."""
    head = [
        "live calls", "idle sockets", "without relays, % of a core",
        "CPU per relay at a steady rate, µs", "of it", "CPU per relay at saturation, µs", "of it", "relays/s",
    ]  # fmt: skip
    lines = [row(head), row(["---:"] * len(head))]
    for step in steps:
        lines.append(
            row(
                [
                    f"{step.calls:,}",
                    f"{step.idle:,}",
                    number(step.rest["cores"] * 100),
                    number(step.net(step.steady)),
                    _shares(step, step.steady),
                    number(step.net(step.full)),
                    _shares(step, step.full),
                    number(step.full["per_s"]),
                ]
            )
        )
    return "\n".join(lines)


def _shares(step: Step, figures: Figures) -> str:
    parts = [f"{role} {number(step.net(figures, role))}" for role in ROLES if f"cpu_us.{role}" in figures]
    return ", ".join(parts)


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 360, 60, 50, 60
_COLOURS = ("#1f6fb2", "#b3261e", "#2a7d46", "#8a5a00")


def plot(steps: list[Step]) -> str:
    """Return an SVG document: microseconds a relay over live calls, a line for each rate and number of idle sockets."""
    lines: list[tuple[str, list[tuple[int, float]]]] = []
    kinds: tuple[tuple[str, Callable[[Step], Figures]], ...] = (
        ("steady", lambda step: step.steady),
        ("saturation", lambda step: step.full),
    )
    for name, of in kinds:
        for idle in sorted({step.idle for step in steps}):
            points = [(step.calls, step.net(of(step))) for step in steps if step.idle == idle]
            lines.append((f"{name}, {idle:,} idle", points))
    top = max(y for _, points in lines for _, y in points) * 1.1
    calls = sorted({step.calls for step in steps})
    low, high = math.log(calls[0]), math.log(max(calls[-1], calls[0] * 2))

    def x(count: int) -> float:
        return _LEFT + (math.log(count) - low) / (high - low) * (_WIDTH - _LEFT - 30)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _BOTTOM - _TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        '<text x="10" y="20" font-size="14">CPU per relay, µs, over live calls</text>',
    ]
    for tick in range(0, int(top) + 1, max(1, int(top / 5))):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 30}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    parts += [
        f'<text x="{x(n):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{n:,}</text>' for n in calls
    ]
    for number_, ((name, points), colour) in enumerate(zip(lines, _COLOURS * 4, strict=False)):
        path = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for n, value in points
        ]
        parts.append(f'<text x="{_LEFT + 140 * number_}" y="{_HEIGHT - 12}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])
