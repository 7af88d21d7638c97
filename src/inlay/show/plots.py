"""Plots as SVG that takes its colours and its font from the page around it (page.css).

What is drawn has a class for its colour, `train` or `family-additive`, and a mark or a dash of its own, so that nothing
depends on colours alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from .units import Unit, number

Points = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]

_CHARACTER = 6.4  # width of one at 11 pixels, about
_MARK = 5.5  # half the size of a mark, about

MARKS = {  # paths around the origin
    "dot": "M-3.2 0A3.2 3.2 0 1 1 3.2 0A3.2 3.2 0 1 1 -3.2 0Z",
    "diamond": "M0 -5.5L5.5 0L0 5.5L-5.5 0Z",
    "baseline": "M0 -7L7 0L0 7L-7 0Z",
    "selective": "M0 -6.5L6.5 5L-6.5 5Z",
    "additive": "M-5 -5H5V5H-5Z",
    "reparameterized": "M-5.5 0A5.5 5.5 0 1 1 5.5 0A5.5 5.5 0 1 1 -5.5 0Z",
    "prompts": "M0 6.5L6.5 -5L-6.5 -5Z",
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The range of an axis, with the marks along it."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value is, from 0 to 1."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return (value - low) / (high - low)


def scale(values: Sequence[float], unit: Unit, log: bool = False) -> Scale:
    """Return a scale that holds the values with some room around them."""
    low, high = min(values), max(values)
    if log and low > 0:
        spread = max(high / low, 1.5) ** 0.12
        low, high = low / spread, high * spread
        return Scale(low=low, high=high, log=True, ticks=_log_ticks(low, high, unit))
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    lowest = 0.0 if low >= 0 else -math.inf  # no mark below zero for what cannot be below it
    highest = 1.005 if unit.is_share and high <= 1 else math.inf  # nor above 100 %
    return between(max(low - room, lowest), min(high + room, highest), unit)


def between(low: float, high: float, unit: Unit, text: Callable[[float], str] | None = None) -> Scale:
    """Return the scale from one value to another; `text` writes its marks, in place of the unit's sizes."""
    return Scale(low=low, high=high, ticks=_ticks(low, high, unit, text))


def steps(low: float, high: float) -> Scale:
    """Return the scale of whole numbers, such as a run's steps."""
    least = min(low, high - 1)
    return Scale(low=least, high=high, ticks=_ticks(least, high, number(0), None, least=1))


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    kind: str
    text: str
    mark: str | None


class Chart:
    """Axes, and what is drawn between them; `svg` has it all."""

    def __init__(self, x: Scale, y: Scale, x_name: str, y_name: str = "", width: int = 400, height: int = 240):
        self.x, self.y, self.width, self.height = x, y, width, height
        self.left = 14 + _CHARACTER * max((len(text) for _, text in y.ticks), default=0)
        self.right, self.top, self.bottom = width - 14, 26 if y_name else 10, height - 38
        self.keys: list[Key] = []
        self._parts: list[str] = []
        self._frame(x_name, y_name)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixels of a point."""
        return (
            self.left + self.x.share(x) * (self.right - self.left),
            self.bottom - self.y.share(y) * (self.bottom - self.top),
        )

    def line(self, kind: str, points: Points, key: str = "", mark: str | None = None, every: int = 1) -> None:
        """Join points, with the mark on one of `every` so many; a single one, of which a line would show nothing, has a
        dot at least."""
        places = [self.place(*point) for point in points]
        if len(places) > 1:
            self.path(f"line {kind}", places)
        else:
            mark = mark or "dot"
        if mark:
            for place in places[::every]:
                self.mark(kind, mark, place)
        self._add_key(kind, key, mark)

    def band(self, kind: str, points: Sequence[tuple[float, float, float]]) -> None:
        """Fill what lies between a lower and an upper value of each x."""
        there = [self.place(x, low) for x, low, _ in points]
        back = [self.place(x, high) for x, _, high in reversed(points)]
        self.path(f"band {kind}", [*there, *back])

    def level(self, kind: str, value: float, key: str = "") -> None:
        """Draw a line across, at a value that others are compared with."""
        self.path(f"line {kind}", [self.place(self.x.low, value), self.place(self.x.high, value)])
        self._add_key(kind, key, None)

    def upright(self, kind: str, value: float, key: str = "", mark: str | None = None) -> None:
        """Draw a line from the bottom to the top."""
        self.path(f"line {kind}", [self.place(value, self.y.low), self.place(value, self.y.high)])
        self._add_key(kind, key, mark)

    def bar(self, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw how far a point may be off, from one place to another."""
        self.path(f"bar {kind}", [start, end])

    def mark(self, kind: str, mark: str, place: tuple[float, float], told: str = "") -> None:
        """Put a mark at a place; `told` is shown where a pointer rests on it."""
        title = f"<title>{escape(told)}</title>" if told else ""
        at = "{:.1f} {:.1f}".format(*place)
        path = f'<path class="shape {kind}" transform="translate({at})" d="{MARKS[mark]}">{title}</path>'
        self._parts.append(path)

    def names(self, names: Sequence[str], places: Sequence[tuple[float, float]], lines: Sequence[Box]) -> None:
        """Write the name of each place beside it, where it covers the least of other names, of places and lines."""
        taken: list[Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in places]
        taken += lines
        for name, (x, y) in zip(names, places, strict=True):
            width = _CHARACTER * len(name)
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
            left, top, anchor, box = min(candidates, key=lambda each: self._covered(each[3], taken))
            taken.append(box)
            self.text("name", (left, top), name, anchor)

    def path(self, kind: str, places: Points) -> None:
        """Join places by straight lines."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        self._parts.append(f'<path class="{kind}" d="M{path}"/>')

    def text(self, kind: str, place: tuple[float, float], text: str, anchor: str) -> None:
        """Write a text at a place."""
        x, y = place
        self._parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def svg(self) -> Markup:
        """Return the <svg> element, as wide as what it is in."""
        box = f"0 0 {self.width} {self.height}"
        return Markup(f'<svg viewBox="{box}" aria-hidden="true">{"".join(self._parts)}</svg>')  # noqa: S704

    def _add_key(self, kind: str, text: str, mark: str | None) -> None:
        if text:
            self.keys.append(Key(kind, text, mark))

    def _frame(self, x_name: str, y_name: str) -> None:
        for value, text in self.y.ticks:
            _, y = self.place(self.x.low, value)
            self.path("grid", [(self.left, y), (self.right, y)])
            self.text("tick", (self.left - 6, y + 4), text, "end")
        for value, text in self.x.ticks:
            x, _ = self.place(value, self.y.low)
            self.path("grid", [(x, self.bottom), (x, self.top)])
            self.text("tick", (x, self.bottom + 15), text, "middle")
        self.text("axis", ((self.left + self.right) / 2, self.height - 5), x_name, "middle")
        if y_name:
            self.text("axis", (4, 14), y_name, "start")

    def _covered(self, box: Box, taken: Sequence[Box]) -> float:
        outside = (
            max(0.0, self.left + 2 - box[0])
            + max(0.0, box[2] - self.width + 2)
            + max(0.0, self.top - 8 - box[1])
            + max(0.0, box[3] - self.bottom)
        )
        overlap = sum(
            max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
            * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
            for other in taken
        )
        return overlap + 100 * outside


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its title, for the macro `figure` of page.html.j2."""

    title: str
    description: str
    """What it shows, for those who cannot see it."""
    chart: Chart


def _ticks(
    low: float, high: float, unit: Unit, text: Callable[[float], str] | None, least: float = 0.0
) -> tuple[tuple[float, str], ...]:
    """Mark up to six round values; `least` is the smallest step."""
    size, name = max((u for u in unit.sizes if u[0] <= max(abs(low), abs(high))), default=unit.sizes[0])
    step = max(_round_step((high - low) / size / 6), least)
    first, last = math.ceil(low / size / step - 1e-9), math.floor(high / size / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple(
        (i * step * size, text(i * step * size) if text else _marked(i * step, name, digits))
        for i in range(first, last + 1)
    )


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
    """Return the smallest of 1, 2, 5, 10, … with a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _marked(value: float, unit: str, digits: int) -> str:
    return f"{value:.{digits}f} {unit}".strip().replace("-", "−")
