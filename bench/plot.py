"""Draw the ratios (SVG): one line a figure, a dot a round, a stroke at the bar. Pure."""

import math
from html import escape

from bench.table import Ratio

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 900, 400, 30, 26, 60
_LOW, _HIGH = 1 / 8, 16.0
_TICKS = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16)
_GREEN, _RED, _GREY = "#2a7d46", "#b3261e", "#666"


def plot(ratios: list[Ratio], title: str) -> str:
    """Return an SVG document. The axis is logarithmic; ratios outside it are drawn at its ends."""
    height = _TOP + _ROW * len(ratios) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(10, 20, title, size=14),
    ]
    for tick in _TICKS:
        parts += [
            _line(_x(tick), _TOP - 10, _x(tick), height - 20, "#ccc" if tick != 1 else _GREY, 1),
            _text(_x(tick), _TOP - 15, f"{tick:g}", anchor="middle"),
        ]
    for number, ratio in enumerate(ratios):
        y = _TOP + _ROW * (number + 0.5)
        colour = {True: _GREEN, False: _RED, None: _GREY}[ratio.reached]
        parts.append(_text(10, y + 4, f"{ratio.metric.label} / {ratio.other}"))
        parts += [
            f'<circle cx="{_x(r):.1f}" cy="{y}" r="3" fill="{colour}" opacity="0.4"/>' for r in ratio.each
        ]
        parts.append(f'<circle cx="{_x(ratio.median):.1f}" cy="{y}" r="5" fill="{colour}"/>')
        if ratio.bar is not None:
            parts.append(_line(_x(ratio.bar), y - 9, _x(ratio.bar), y + 9, "black", 2))
    return "\n".join([*parts, "</svg>\n"])


def _x(ratio: float) -> float:
    share = math.log(min(max(ratio, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
