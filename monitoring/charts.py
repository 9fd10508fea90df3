"""PURE. Small line charts as inline SVG: what the drift page draws. Plain numbers in, text out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22
COLOURS = ("#2563eb", "#db2777", "#059669", "#d97706", "#7c3aed", "#0891b2", "#65a30d", "#dc2626", "#4b5563")


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[tuple[float, float | None]]  # x (any unit), y; None breaks the line
    dashed: bool = False


def line_chart(
    series: Sequence[Series], *, x_labels: tuple[str, str] = ("", ""), unit: str = "", logarithmic: bool = False
) -> str:
    """One SVG element; an empty chart says so instead of drawing axes of nothing.

    `logarithmic` draws sign(y) log10(1 + |y|), so that 3 and 3,000 are seen on one chart; the axis shows y itself.
    """
    if logarithmic:
        series = [Series(s.name, [(x, _squeezed(y)) for x, y in s.points], s.dashed) for s in series]
    ys = [y for s in series for _, y in s.points if y is not None and math.isfinite(y)]
    xs = [x for s in series for x, _ in s.points]
    if not ys:
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart"><text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no data yet</text></svg>'
    low, high = min(0.0, min(ys)), max(ys) or 1.0
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def at(x: float, y: float) -> str:
        px = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        py = TOP + (1 - (y - low) / ((high - low) or 1.0)) * (HEIGHT - TOP - BOTTOM)
        return f"{px:.1f},{py:.1f}"

    parts = [_grid(low, high, unit, logarithmic), _x_labels(x_labels)]
    for colour, one in zip(_colours(len(series)), series, strict=True):
        dash = ' stroke-dasharray="6 4"' if one.dashed else ""
        parts += [
            f'<polyline points="{" ".join(at(x, y) for x, y in run)}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}><title>{escape(one.name)}</title></polyline>'
            for run in _runs(one.points)
        ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img">{"".join(parts)}</svg>{_legend(series)}'


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [r for r in runs if r]


def _squeezed(y: float | None) -> float | None:
    return None if y is None else math.copysign(math.log10(1 + abs(y)), y)


def _grid(low: float, high: float, unit: str, logarithmic: bool) -> str:
    lines = []
    for k in range(5):
        value = low + (high - low) * k / 4
        y = TOP + (1 - k / 4) * (HEIGHT - TOP - BOTTOM)
        lines.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{_tick(math.copysign(10 ** abs(value) - 1, value) if logarithmic else value)}{escape(unit)}</text>'
        )
    return "".join(lines)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _x_labels(labels: tuple[str, str]) -> str:
    y = HEIGHT - 6
    return f'<text x="{LEFT}" y="{y}">{escape(labels[0])}</text><text x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{escape(labels[1])}</text>'


def _legend(series: Sequence[Series]) -> str:
    items = (
        f'<span><i style="border-top:2px {"dashed" if s.dashed else "solid"} {c}"></i>{escape(s.name)}</span>'
        for c, s in zip(_colours(len(series)), series, strict=True)
    )
    return f'<div class="legend">{"".join(items)}</div>'
