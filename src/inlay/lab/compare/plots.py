"""A comparison's plots: SVG that takes its colours and its font from the page around it.

Families have a shape each as well as a colour, and points carry their names, so that nothing depends on colours alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ...show.units import Unit, number
from .pareto import front
from .table import Quantity, Row

WIDTH, HEIGHT = 480, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 44
_CHARACTER = 6.4  # width of one at 11 pixels, about
_SIZE = 5.5  # of a point

# Paths around the origin.
SHAPES = {
    "baseline": "M0 -7L7 0L0 7L-7 0Z",
    "selective": "M0 -6.5L6.5 5L-6.5 5Z",
    "additive": "M-5 -5H5V5H-5Z",
    "reparameterized": "M-5.5 0A5.5 5.5 0 1 1 5.5 0A5.5 5.5 0 1 1 -5.5 0Z",
    "prompts": "M0 6.5L6.5 -5L-6.5 -5Z",
}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From values to pixels, with the marks in between."""

    low: float
    high: float
    log: bool
    start: float  # pixels
    end: float
    ticks: tuple[tuple[float, str], ...]

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (
                self.low,
                self.high,
                value,
            )
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def axis(values: Sequence[float], unit: Unit, log: bool, start: float, end: float) -> Axis:
    """One that holds the values with some room around them."""
    low, high = min(values), max(values)
    if log and low > 0:
        spread = max(high / low, 1.5) ** 0.12
        low, high = low / spread, high * spread
        return Axis(low=low, high=high, log=True, start=start, end=end, ticks=_log_ticks(low, high, unit))
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    lowest = 0.0 if low >= 0 else -math.inf  # no mark below zero for what cannot be below it
    low, high = max(low - room, lowest), high + room
    return Axis(low=low, high=high, log=False, start=start, end=end, ticks=_ticks(low, high, unit))


def pareto_plot(rows: Sequence[Row], x: Quantity, y: Quantity) -> Markup:
    """A point for each contender with its deviation over the seeds, and the line of those that none beats."""
    points = [(row, row.spreads[x.key], row.spreads[y.key]) for row in rows if {x.key, y.key} <= row.spreads.keys()]
    if not points:
        return Markup("")  # noqa: S704
    reached = [
        (mean - (deviation or 0), mean + (deviation or 0))
        for _, *spreads in points
        for mean, deviation in ((s.mean, s.deviation) for s in spreads)
    ]
    across = axis([v for pair in reached[::2] for v in pair], x.unit, x.log, _LEFT, WIDTH - _RIGHT)
    up = axis([v for pair in reached[1::2] for v in pair], y.unit, y.log, HEIGHT - _BOTTOM, _TOP)
    parts, lines = [_frame(across, up, x.name, y.name)], []
    places = [(across(px.mean), up(py.mean)) for _, px, py in points]
    best = front([(px.mean, py.mean) for _, px, py in points], (x.sign, y.sign))
    if len(best) > 1:
        path = "L".join(f"{places[i][0]:.1f} {places[i][1]:.1f}" for i in best)
        parts.append(f'<path class="front" d="M{path}"/>')
    for (row, px, py), (left, top) in zip(points, places, strict=True):
        kind = f"point family-{row.family}"
        bars = ""
        if px.deviation:
            ends = across(max(px.mean - px.deviation, across.low)), across(px.mean + px.deviation)
            bars += f'<path d="M{ends[0]:.1f} {top:.1f}H{ends[1]:.1f}"/>'
            lines.append((ends[0], top - 1, ends[1], top + 1))
        if py.deviation:
            ends = up(py.mean + py.deviation), up(py.mean - py.deviation)
            bars += f'<path d="M{left:.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>'
            lines.append((left - 1, ends[0], left + 1, ends[1]))
        told = escape(f"{row.label}: {y.name} {y.text(py.mean)}, {x.name} {x.text(px.mean)}")
        shape = f'<path class="shape" transform="translate({left:.1f} {top:.1f})" d="{SHAPES[row.family]}"/>'
        parts.append(f'<g class="{kind}"><title>{told}</title>{bars}{shape}</g>')
    labels = [row.label for row, *_ in points]
    for text, (left, top, anchor) in zip(labels, _label_places(labels, places, lines), strict=True):
        parts.append(f'<text class="name" x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(text)}</text>')
    return _svg(parts, WIDTH, HEIGHT)


@dataclass(frozen=True, kw_only=True)
class Curve:
    label: str
    family: str
    points: tuple[tuple[float, float], ...]  # epoch, score


def curve_plot(label: str, curves: Sequence[Curve], y: Quantity) -> Markup:
    """The runs of one contender, with all others faint behind them, on axes that all contenders share."""
    width, height = 300, 190
    every = [point for curve in curves for point in curve.points]
    across = axis([0.0, *(e for e, _ in every)], number(0), False, 44, width - 8)
    up = axis([v for _, v in every], y.unit, False, height - 34, 8)
    parts = [_frame(across, up, "epoch", "", width, height)]
    for curve in sorted(curves, key=lambda curve: curve.label == label):
        path = "L".join(f"{across(e):.1f} {up(v):.1f}" for e, v in curve.points)
        kind = f"curve family-{curve.family}" if curve.label == label else "curve other"
        if len(curve.points) > 1:
            parts.append(f'<path class="{kind}" d="M{path}"/>')
            continue
        for left, top in curve.points if curve.label == label else ():
            dot = f'<circle class="shape" cx="{across(left):.1f}" cy="{up(top):.1f}" r="3"/>'
            parts.append(f'<g class="point family-{curve.family}">{dot}</g>')
    return _svg(parts, width, height)


def _svg(parts: Sequence[str], width: float, height: float) -> Markup:
    return Markup(f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>')  # noqa: S704


def _frame(across: Axis, up: Axis, x_name: str, y_name: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    parts = []
    for value, text in up.ticks:
        y = up(value)
        parts.append(f'<path class="grid" d="M{across.start:.1f} {y:.1f}H{across.end:.1f}"/>')
        parts.append(f'<text class="tick" x="{across.start - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in across.ticks:
        x = across(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {up.start:.1f}V{up.end:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{up.start + 16:.1f}" text-anchor="middle">{text}</text>')
    middle = (across.start + across.end) / 2
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{height - 6:.1f}" text-anchor="middle">{escape(x_name)}</text>'
    )
    if y_name:
        parts.append(f'<text class="axis" x="4" y="14" text-anchor="start">{escape(y_name)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float, unit: Unit) -> tuple[tuple[float, str], ...]:
    size, name = max((u for u in unit.sizes if u[0] <= max(abs(low), abs(high))), default=unit.sizes[0])
    step = _round_step((high - low) / size / 5)
    first, last = math.ceil(low / size / step - 1e-9), math.floor(high / size / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple((i * step * size, _marked(i * step, name, digits)) for i in range(first, last + 1))


def _log_ticks(low: float, high: float, unit: Unit) -> tuple[tuple[float, str], ...]:
    factors = (1,) if high / low > 300 else (1, 3) if high / low > 20 else (1, 2, 5)
    found: dict[float, str] = {}
    for at, (size, name) in enumerate(unit.sizes):
        largest = unit.sizes[at + 1][0] if at + 1 < len(unit.sizes) else math.inf
        for power in range(4):
            for factor in factors:
                value = factor * 10.0**power * size
                if low <= value <= high and value < largest:
                    found[value] = _marked(factor * 10**power, name, 0)
    return tuple(sorted(found.items()))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, … with a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _marked(value: float, unit: str, digits: int) -> str:
    return f"{value:.{digits}f} {unit}".strip().replace("-", "−")


Box = tuple[float, float, float, float]


def _label_places(
    labels: Sequence[str], places: Sequence[tuple[float, float]], lines: Sequence[Box]
) -> list[tuple[float, float, str]]:
    """Beside, above or below each point, where it covers the least of other labels, of points and lines."""
    taken: list[Box] = [(x - _SIZE, y - _SIZE, x + _SIZE, y + _SIZE) for x, y in places]
    taken += lines
    found = []
    for label, (x, y) in zip(labels, places, strict=True):
        width = _CHARACTER * len(label)
        candidates = [
            (x + 10, y + 4, "start", (x + 10, y - 7, x + 10 + width, y + 6)),
            (x - 10, y + 4, "end", (x - 10 - width, y - 7, x - 10, y + 6)),
            (x, y - 11, "middle", (x - width / 2, y - 22, x + width / 2, y - 9)),
            (x, y + 20, "middle", (x - width / 2, y + 9, x + width / 2, y + 22)),
            (x + 8, y - 9, "start", (x + 8, y - 20, x + 8 + width, y - 7)),
            (x + 8, y + 17, "start", (x + 8, y + 6, x + 8 + width, y + 19)),
            (x - 8, y - 9, "end", (x - 8 - width, y - 20, x - 8, y - 7)),
            (x - 8, y + 17, "end", (x - 8 - width, y + 6, x - 8, y + 19)),
        ]
        left, top, anchor, box = min(candidates, key=lambda c: _covered(c[3], taken))
        taken.append(box)
        found.append((left, top, anchor))
    return found


def _covered(box: Box, taken: Sequence[Box]) -> float:
    outside = (
        max(0.0, _LEFT + 2 - box[0])
        + max(0.0, box[2] - WIDTH + 2)
        + max(0.0, _TOP - 8 - box[1])
        + max(0.0, box[3] - HEIGHT + _BOTTOM)
    )
    overlap = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    return overlap + 100 * outside
