"""rank.html and rank.json: what `inlay rank` found, as a page and for programs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formats.files import write_json, write_text
from ..outside import printable
from ..show.units import count_text, seconds_text
from ..tasks.metric import METRICS
from ..tasks.page import capitalized
from . import figures
from .html import templates

if TYPE_CHECKING:
    from ..lab.rank.analysis import Analysis, Layer
    from ..lab.rank.curve import Curve

_POINTS = 64  # singular values that are drawn


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    text: str
    heat: float
    """From 0 to 1: how strongly to colour it."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Blocks down, the layers of each across, under their roles."""

    title: str
    what: str
    roles: list[tuple[str, int]]
    """With the number of its columns."""
    columns: list[str]
    rows: list[str]
    cells: list[list[HeatCell | None]]


def write_rank_report(result: "Analysis", folder: Path) -> Path:
    """`rank.json` and `rank.html` stand in the folder, whole; returns the page's path."""
    write_json(folder / "rank.json", result.as_dict())
    page = folder / "rank.html"
    write_text(page, render(result))
    return page


def render(result: "Analysis") -> str:
    return printable(templates().get_template("rank.html.j2").render(_page(result)))


def _page(result: "Analysis") -> dict[str, Any]:
    from ..lab.rank.advice import advice, gain_text

    curve = result.curve
    plots = [_spectrum_plot(result.layers), *([_curve_plot(curve)] if curve and curve.points else [])]
    return {
        "result": result,
        "advice": advice(result),
        "plots": plots,
        "maps": heat_maps(result.layers),
        "curve": curve,
        "lower": f" (a lower {METRICS[curve.score].label})"
        if curve and not METRICS[curve.score].higher_is_better
        else "",
        "whole": curve.whole if curve else {},
        "gains": [gain_text(curve, point) for point in curve.points] if curve else [],
        "thin": sum(layer.way == "thin" for layer in result.layers),
        "with_base": any(layer.base for layer in result.layers),
        "with_other": any(layer.other for layer in result.layers),
        "count": count_text,
        "seconds": seconds_text,
    }


def heat_maps(layers: "list[Layer]") -> list[HeatMap]:
    """Without those that nothing is known for."""
    maps = [
        _map(layers, "Effective rank", "exp of the entropy of the singular values", _effective, "{:.3g}"),
        _map(layers, "Rank of 90 % of the energy", "of the squares", _energy, "{:.0f}"),
        _map(layers, "Size", "of the update, in per cent of the base's weight", _size, "{:.1f}"),
        _map(layers, "Intruders", "of the ten leading directions", _intruders, "{:.0f}"),
        _map(layers, "Overlap with the other run", "of the leading input directions", _shared, "{:.2f}"),
    ]
    return [found for found in maps if any(cell for row in found.cells for cell in row)]


def _effective(layer: "Layer") -> float:
    return layer.ranks.effective


def _energy(layer: "Layer") -> float:
    return layer.ranks.energy[90]


def _size(layer: "Layer") -> float:
    return 100 * layer.relative


def _intruders(layer: "Layer") -> float | None:
    return None if layer.base is None else layer.base.intruders


def _shared(layer: "Layer") -> float | None:
    return None if layer.other is None else layer.other.overlap.right


def _map(layers: "list[Layer]", title: str, what: str, value: "Callable[[Layer], float | None]", text: str) -> HeatMap:
    from ..lab.rank.analysis import by_role

    roles = {
        role: list(dict.fromkeys(layer.place.within for layer in of_role)) for role, of_role in by_role(layers).items()
    }
    blocks = (layer.place.block or "" for of_role in by_role(layers).values() for layer in of_role)
    rows = list(dict.fromkeys(blocks))
    at = {(layer.place.block or "", layer.place.within): value(layer) for layer in layers}
    known = {place: number for place, number in at.items() if number is not None}
    # A layer outside the blocks, such as a pooler, may be far beyond all others, and would leave them without colour.
    most = (
        max((number for (block, _), number in known.items() if block), default=0) or max(known.values(), default=0) or 1
    )
    columns = [within for of_role in roles.values() for within in of_role]

    def cell(row: str, column: str) -> HeatCell | None:
        number = at.get((row, column))
        if number is None:
            return None
        return HeatCell(text=text.format(number), heat=min(1.0, 0.08 + 0.92 * number / most) if number else 0)

    return HeatMap(
        title=title,
        what=what,
        roles=[(role, len(of_role)) for role, of_role in roles.items()],
        columns=columns,
        rows=_short(rows),
        cells=[[cell(row, column) for column in columns] for row in rows],
    )


def _short(blocks: list[str]) -> list[str]:
    """Numbers, if all blocks are of one stack."""
    stacks = {block.rpartition(".")[0] for block in blocks if block}
    if len(stacks) > 1:
        return [block or "outside" for block in blocks]
    return [block.rpartition(".")[2] or "outside" for block in blocks]


def _spectrum_plot(layers: "list[Layer]") -> figures.Plot:
    from ..lab.rank.analysis import by_role

    return figures.spectrum_plot(
        {
            role: [
                [(number, value / layer.values[0]) for number, value in enumerate(layer.values[:_POINTS], 1)]
                for layer in of_role
                if layer.ranks.numerical
            ]
            for role, of_role in by_role(layers).items()
        }
    )


def _curve_plot(curve: "Curve") -> figures.Plot:
    """The score of each cut; its interval is that of the difference from the whole update's."""
    whole = curve.whole[curve.score]
    metric = METRICS[curve.score]
    points = curve.points[::-1]
    bounds = [sorted((whole + metric.sign * p.gain.low, whole + metric.sign * p.gain.high)) for p in points]
    scores = [point.scores[curve.score] for point in points]
    return figures.curve_plot(
        capitalized(metric.label),
        [point.rank for point in points],
        scores,
        [min(score, low) for score, (low, _) in zip(scores, bounds, strict=True)],
        [max(score, high) for score, (_, high) in zip(scores, bounds, strict=True)],
        whole,
    )
