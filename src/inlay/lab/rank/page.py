"""rank.html and rank.json: what `inlay rank` found, as a page and for programs."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ...formats.files import write_json, write_text
from ...outside import printable
from ...show.heat_map import HeatMap, heat_map
from ...show.page import templates
from ...show.plots import Chart, Figure, Scale, between, scale, steps
from ...show.table import Column, Table
from ...show.units import count_text, number, percent_text, seconds_text
from ...tasks.metric import METRICS, Scores
from ...tasks.page import capitalized
from .advice import advice, cut_text, exact_text, interval_text
from .analysis import Analysis, Layer, by_role
from .curve import CutCurve

_POINTS = 64  # singular values that are drawn
_KINDS = (("train", None), ("evaluation", "dot"), ("best", "diamond"))  # of the roles' lines


def write_rank_report(result: Analysis, folder: Path) -> Path:
    """Write `rank.json` and `rank.html` into the folder, whole; returns the page's path. What is there already and has
    more in it stays: the new ones are called rank-2, and so on."""
    name = next(name for name in _names() if _holds(result, folder / f"{name}.json"))
    write_json(folder / f"{name}.json", result.as_dict())
    page = folder / f"{name}.html"
    write_text(page, render(result))
    return page


def _names() -> Iterator[str]:
    return itertools.chain(["rank"], (f"rank-{i}" for i in itertools.count(2)))


def _holds(result: Analysis, file: Path) -> bool:
    """Tell whether the result has all that the file has, which it can take the place of."""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        return _contents(there) <= _contents(result.as_dict())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # there is none, or another version's
        return True


def _contents(found: Mapping[str, Any]) -> set[str]:
    """Name the parts of an analysis that were asked for, by which one has more than another."""
    curve, layers, parts = found["curve"], found["layers"], set[str]()
    if curve is not None:
        parts |= {f"rank {point['rank']} on {curve['split']} of {curve.get('rows')} rows" for point in curve["points"]}
    if found["cut"] is not None:
        parts.add(f"cut in {found['cut']['folder']}")
    if found["compared_with"] is not None:
        parts.add(f"with {found['compared_with']}")
    return parts | ({"base"} if any(layer["base"] for layer in layers) else set())


def render(result: Analysis) -> str:
    """Return the page as text."""
    return printable(templates("lab/rank").get_template("rank.html.j2").render(_page(result)))


def _page(result: Analysis) -> dict[str, object]:
    curve = result.curve
    metric = METRICS[curve.score] if curve else None
    return {
        "result": result,
        "advice": advice(result),
        "plots": [spectrum_plot(result.layers), *([curve_plot(curve)] if curve and curve.points else [])],
        "maps": heat_maps(result.layers),
        "curve": curve,
        "metric": metric,
        "exact": exact_text,
        "cut_text": lambda cut: capitalized(cut_text(cut, metric)) if metric else "",
        "score": lambda cut: exact_text(METRICS[curve.score], cut.scores) if curve else "",
        "lower": f" (a lower {metric.label})" if metric and not metric.higher_is_better else "",
        "curve_table": curve_table(curve) if curve else None,
        "layer_table": layer_table(result.layers),
        "thin": sum(layer.way == "thin" for layer in result.layers),
        "count": count_text,
        "seconds": seconds_text,
    }


def curve_table(curve: CutCurve) -> Table:
    """Return the scores of the whole update, and of each cut."""
    columns = [Column(name="rank"), Column(name="parameters", text=count_text, right=True)]
    columns += [Column(name=METRICS[key].label, right=True) for key in curve.whole]
    metric = METRICS[curve.score]
    columns += [Column(name=f"gain in {metric.label}", right=True), Column(name="95 % interval", right=True)]
    rows: list[list[object]] = [["whole", "", *_exact(curve.whole), "", ""]]
    for point in curve.points:
        gain = f"{metric.unit.change(point.gain.value)}{metric.difference_unit}"
        rows.append([point.rank, point.parameters, *_exact(point.scores), gain, interval_text(metric, point)])
    return Table(columns=columns, rows=rows)


def _exact(scores: Scores) -> list[str]:
    return [exact_text(METRICS[key], scores) for key in scores]


def layer_table(layers: Sequence[Layer]) -> Table:
    """Return all that is known of every layer."""
    known: list[tuple[str, Callable[[Layer], object]]] = [
        ("size", lambda layer: f"{layer.shape[0]} × {layer.shape[1]}"),
        ("numerical", lambda layer: layer.ranks.numerical),
        ("stable", lambda layer: f"{layer.ranks.stable:.2f}"),
        ("effective", lambda layer: f"{layer.ranks.effective:.2f}"),
        ("90 / 95 / 99 %", lambda layer: " / ".join(map(str, layer.ranks.energy.values()))),
        ("size, of the weight", lambda layer: percent_text(layer.relative)),
    ]
    if any(layer.base for layer in layers):
        known += [
            ("overlap, input", lambda layer: f"{layer.base.overlap.right:.3f}" if layer.base else ""),
            ("output", lambda layer: f"{layer.base.overlap.left:.3f}" if layer.base else ""),
            ("by chance", lambda layer: f"{layer.base.overlap.random_right:.3f}" if layer.base else ""),
            ("intruders", lambda layer: layer.base.intruders if layer.base else ""),
        ]
    if any(layer.other for layer in layers):
        known += [
            ("other run, input", lambda layer: f"{layer.other.overlap.right:.3f}" if layer.other else ""),
            ("cosine", lambda layer: f"{layer.other.cosine:.3f}" if layer.other else ""),
        ]
    columns = [Column(name="layer"), *(Column(name=name, right=True) for name, _ in known)]
    return Table(columns=columns, rows=[[layer.name, *(value(layer) for _, value in known)] for layer in layers])


def heat_maps(layers: Sequence[Layer]) -> list[tuple[str, str, HeatMap]]:
    """Return a map for each number that is known, with its name and what it is."""
    ordered = [layer for of_role in by_role(layers).values() for layer in of_role]
    wanted: list[tuple[str, str, Callable[[Layer], float | None], str]] = [
        (
            "Effective rank",
            "exp of the entropy of the singular values",
            lambda layer: layer.ranks.effective,
            "{:.3g}",
        ),
        ("Rank of 90 % of the energy", "of the squares", lambda layer: layer.ranks.energy[90], "{:.0f}"),
        ("Size", "of the update, in per cent of the base's weight", lambda layer: 100 * layer.relative, "{:.1f}"),
        (
            "Intruders",
            "of the ten leading directions",
            lambda layer: layer.base.intruders if layer.base else None,
            "{:.0f}",
        ),
        (
            "Overlap with the other run",
            "of the leading input directions",
            lambda layer: layer.other.overlap.right if layer.other else None,
            "{:.2f}",
        ),
    ]
    found = []
    for title, what, value, text in wanted:
        known = [(layer.place, number) for layer in ordered if (number := value(layer)) is not None]
        if known:
            groups: dict[str, dict[str, None]] = {}
            for place, _ in known:
                groups.setdefault(place.role, {})[place.within] = None
            numbers = {(place.block or "", place.within): number for place, number in known}
            above = [(role, len(names)) for role, names in groups.items()]
            found.append((title, what, heat_map(numbers, text.format, above)))
    return found


def spectrum_plot(layers: Sequence[Layer]) -> Figure:
    """Plot every layer's singular values over its first: by role the median, and a band from the least to the most."""
    roles = {role: _across(of_role) for role, of_role in by_role(layers).items()}
    most = max((rows[-1][0] for rows in roles.values() if rows), default=2)
    chart = Chart(steps(1, most), between(0, 1.02, number(2)), "singular value, the largest first")
    for (kind, mark), (role, rows) in zip(_KINDS, roles.items(), strict=False):
        chart.band(kind, [(at, least, largest) for at, _, least, largest in rows])
        middles = [(at, middle) for at, middle, _, _ in rows]
        chart.line(kind, middles, key=role, mark=mark, every=max(1, len(rows) // 12))
    described = "".join(
        f"{role}: the median value {last[0]} is {last[1]:.2f} of the first. "
        for role, rows in roles.items()
        for last in rows[-1:]
    )
    return Figure(title="Singular values", description=described, chart=chart)


def _across(layers: Sequence[Layer]) -> list[tuple[int, float, float, float]]:
    """Return for each number that any layer has: the median over these layers, the least and the most."""
    found: dict[int, list[float]] = {}
    for layer in layers:
        if layer.ranks.numerical:
            for at, value in enumerate(layer.values[:_POINTS], 1):
                found.setdefault(at, []).append(value / layer.values[0])
    return [(at, median(values), min(values), max(values)) for at, values in sorted(found.items())]


def curve_plot(curve: CutCurve) -> Figure:
    """Plot the score of each cut, from the smallest; its interval is that of the difference from the whole update's."""
    metric, whole, points = METRICS[curve.score], curve.whole[curve.score], curve.points[::-1]
    text = metric.text if metric.unit.is_share else "{:.4g}".format
    scores = [point.scores[curve.score] for point in points]
    bounds = [sorted((whole + metric.sign * p.gain.low, whole + metric.sign * p.gain.high)) for p in points]
    bounds = [(min(score, low), max(score, high)) for score, (low, high) in zip(scores, bounds, strict=True)]
    least, most = metric.limits
    bounds = [(max(least, low), min(most, high)) for low, high in bounds]
    bounds = [pair for pair in bounds if all(map(math.isfinite, pair))]  # too few rows have none
    ranks = Scale(low=-0.4, high=len(points) - 0.6, ticks=tuple((i, str(point.rank)) for i, point in enumerate(points)))
    reached = [whole, *scores, *(bound for pair in bounds for bound in pair)]
    chart = Chart(ranks, scale(reached, metric.unit), "rank of every layer")
    for i, (low, high) in enumerate(bounds):
        chart.bar("evaluation", chart.place(i, low), chart.place(i, high))
    chart.line("evaluation", list(enumerate(scores)), key="cut to the rank", mark="dot")
    chart.level("reference", whole, key=f"whole, {text(whole)}")
    described = "".join(f"Rank {p.rank}: {text(score)}. " for p, score in zip(points, scores, strict=True))
    title = f"{capitalized(metric.label)} by rank"
    return Figure(title=title, description=f"{described}Whole: {text(whole)}.", chart=chart)
