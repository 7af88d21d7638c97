"""A comparison's plots: scores against costs, and learning curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ...show.plots import Box, Chart, Points, scale
from ...show.units import number
from ...tasks.naive import NaiveBaseline
from .pareto import front
from .table import MethodRow, Quantity, Spread


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """The score of one run at each evaluation."""

    label: str
    family: str
    points: Points  # epoch, score


def pareto_plot(rows: Sequence[MethodRow], x: Quantity, y: Quantity) -> Chart:
    """Plot a point for each contender with its deviation over the seeds, and the line of those that none beats."""
    points = [(row, row.spreads[x.key], row.spreads[y.key]) for row in rows if {x.key, y.key} <= row.spreads.keys()]
    across, up = [_reach(s, x) for _, s, _ in points], [_reach(s, y) for _, _, s in points]
    chart = Chart(
        scale(list(chain(*across)), x.unit, x.log),
        scale(list(chain(*up)), y.unit, y.log),
        x.name,
        y.name,
        width=430,
        height=310,
    )
    places = [chart.place(px.mean, py.mean) for _, px, py in points]
    best = front([(px.mean, py.mean) for _, px, py in points], (x.sign, y.sign))
    if len(best) > 1:
        chart.path("front", [places[i] for i in best])
    lines: list[Box] = []
    for (row, px, py), (low, high), (least, most), (left, top) in zip(points, across, up, places, strict=True):
        kind = f"family-{row.family}"
        if px.deviation:
            start, end = chart.place(low, py.mean)[0], chart.place(high, py.mean)[0]
            chart.bar(kind, (start, top), (end, top))
            lines.append((start, top - 1, end, top + 1))
        if py.deviation:
            start, end = chart.place(px.mean, most)[1], chart.place(px.mean, least)[1]
            chart.bar(kind, (left, start), (left, end))
            lines.append((left - 1, start, left + 1, end))
        told = f"{row.label}: {y.name} {y.text(py.mean)}, {x.name} {x.text(px.mean)}"
        chart.mark(kind, row.family, (left, top), told)
    chart.names([row.label for row, *_ in points], places, lines)
    return chart


def _reach(found: Spread, quantity: Quantity) -> tuple[float, float]:
    """Return where the bar of one standard deviation begins and ends, within what the quantity can be."""
    least, most = quantity.limits
    around = found.deviation or 0.0
    low = max(found.mean - around, least)
    if quantity.log and low <= 0:  # a logarithmic axis has no place for it
        low = min(found.values)
    return low, min(found.mean + around, most)


def curve_plot(label: str, curves: Sequence[ScoreCurve], y: Quantity, naive: NaiveBaseline | None = None) -> Chart:
    """Plot the runs of one contender, with all others faint behind them, on axes that all contenders share, and a line
    at what is scored without reading the inputs."""
    every = [point for curve in curves for point in curve.points]
    floor = naive.scores.get(y.key) if naive else None
    scores = [*(score for _, score in every), *([] if floor is None else [floor])]
    epochs = scale([0.0, *(epoch for epoch, _ in every)], number(0))
    chart = Chart(epochs, scale(scores, y.unit), "epoch", width=300, height=190)
    if naive is not None and floor is not None:
        chart.level("reference", floor, key=naive.name)
    for curve in sorted(curves, key=lambda curve: curve.label == label):
        if curve.label == label:
            chart.line(f"family-{curve.family}", curve.points)
        elif len(curve.points) > 1:
            chart.line("other", curve.points)
    return chart
