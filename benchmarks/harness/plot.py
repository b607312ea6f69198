"""Charts of bars as SVG. A few lines instead of a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 320, 60, 40, 40
_COLOURS: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


@dataclass(frozen=True, slots=True)
class Chart:
    """`series` holds a value for each of `labels`; `name` is the file's. `stacked` bars stand on each other."""

    name: str
    title: str
    labels: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]]
    stacked: bool = False


def svg(chart: Chart) -> str:
    """The chart as a document of its own."""
    columns = [[values[at] for values in chart.series.values()] for at in range(len(chart.labels))]
    top = max((sum(c) if chart.stacked else max(c) for c in columns), default=0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>',
        _text(LEFT, 16, chart.title, size=13),
        *(_grid_line(top, fraction / 4) for fraction in range(5)),
    ]
    step = (WIDTH - LEFT - 10) / max(1, len(columns))
    for at, column in enumerate(columns):
        parts += _bars(column, LEFT + at * step, step, top, stacked=chart.stacked)
        parts.append(_text(LEFT + (at + 0.5) * step, HEIGHT - BOTTOM + 16, chart.labels[at], anchor="middle"))
    for at, name in enumerate(chart.series):
        x = LEFT + at * 110
        parts.append(f'<rect x="{x}" y="22" width="9" height="9" fill="{_COLOURS[at % len(_COLOURS)]}"/>')
        parts.append(_text(x + 13, 31, name))
    return "\n".join([*parts, "</svg>\n"])


def _bars(column: list[float], x: float, step: float, top: float, *, stacked: bool) -> list[str]:
    width = step * 0.8 / (1 if stacked else len(column))
    parts, base = [], 0.0
    for at, value in enumerate(column):
        left = x + step * 0.1 + (0 if stacked else at * width)
        high, low = _y(base + value, top), _y(base, top)
        parts.append(
            f'<rect x="{left:.1f}" y="{high:.1f}" width="{width:.1f}" height="{low - high:.1f}" '
            f'fill="{_COLOURS[at % len(_COLOURS)]}"><title>{value:g}</title></rect>'
        )
        base += value if stacked else 0
    return parts


def _grid_line(top: float, fraction: float) -> str:
    y = _y(top * fraction, top)
    return f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#ddd"/>' + _text(
        LEFT - 6, y + 4, f"{top * fraction:,.4g}", anchor="end"
    )


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
