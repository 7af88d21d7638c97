"""The results of `inlay rank` as text."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ...show.lines import fitted
from ...show.table import Column, Table
from ...show.units import count_text, counted, seconds_text
from ...tasks.metric import METRICS
from .advice import advice, cut_text, exact_text
from .analysis import Analysis, Layer, by_role, middle
from .curve import CutCurve
from .export import Cut
from .page import curve_table
from .suggestion import Suggestion


def analysis_screen(result: Analysis, columns: int | None) -> str:
    """Return the text for a terminal of so many columns; without, no line is broken."""
    thin = sum(layer.way == "thin" for layer in result.layers)
    ways = [f"{thin} from thin factors"] if thin else []
    ways += [f"{len(result.layers) - thin} from the whole change"] if thin < len(result.layers) else []
    lines = [
        fitted(
            f"{result.folder}: {result.method} on {result.model}, the update of {len(result.layers)} weights "
            f"({', '.join(ways)})",
            columns,
        ),
        "",
        role_table(result).screen(columns),
        "",
        *(fitted(line, columns, "  ") for line in _legend(result)),
        *(_curve_table(result.curve, columns) if result.curve else []),
        *(fitted(line, columns, " " * 8) for line in (_cut(result.cut, result.curve) if result.cut else [])),
        "",
        *(fitted(f"· {sentence}", columns, "  ") for sentence in (*advice(result), *result.notes)),
        "",
        fitted(
            "time    " + ", ".join(f"{name} {seconds_text(value)}" for name, value in result.seconds.items()),
            columns,
            " " * 8,
        ),
    ]
    return "\n".join(lines)


def suggestion_screen(result: Suggestion, columns: int | None) -> str:
    """Return the text for a terminal of so many columns; without, no line is broken."""
    origin = "the variance of their inputs" if result.origin == "activations" else "the first gradients"
    lines = [
        fitted(
            f"ranks of {len(result.layers)} layers by {origin}: {count_text(result.parameters)} parameters, where "
            f"rank {result.rank} everywhere takes {count_text(result.uniform_parameters)}",
            columns,
        ),
        "",
        ranks_table(result).screen(columns),
        "",
        *(fitted(f"· {sentence}", columns, "  ") for sentence in suggestion_notes(result)),
    ]
    if result.settings_file is not None:
        named = shlex.quote(str(result.settings_file))
        lines += ["", f"settings {result.settings_file}", f"next     inlay train --config {named}"]
    return "\n".join(lines)


def ranks_table(result: Suggestion) -> Table:
    """Return the ranks that are suggested, by the role of their layers."""
    rows = []
    for role in dict.fromkeys(layer.place.role for layer in result.layers):
        ranks = [layer.rank for layer in result.layers if layer.place.role == role]
        rows.append([role, len(ranks), _span(ranks, "{:.0f}".format), f"{sum(ranks) / len(ranks):.1f}"])
    return _table(["role", "layers", "rank: median (range)", "mean"], rows)


def suggestion_notes(result: Suggestion) -> list[str]:
    """Say what the ranks are worth, and whether they were tried."""
    return [
        f"Lower bound from the answers in the data: rank {result.floor} (at 2 bits a parameter). Whether more "
        "helps, only training tells.",
        *_agreed(result),
        *_tried(result),
    ]


def _agreed(result: Suggestion) -> list[str]:
    if result.origin != "gradients":
        return []
    enough = _span([layer.enough for layer in result.layers], "{:.0f}".format)
    return [f"Two halves of the gradients agree: 90 % of what they share lies in {enough} directions of a layer."]


def _tried(result: Suggestion) -> list[str]:
    if (tried := result.tried) is None:
        return ["Not tried: --try trains with these ranks and with one rank everywhere, and compares."]
    metric, gained = METRICS[tried.score], ""
    if tried.gain is not None:
        low, high = (metric.unit.change(value) for value in (tried.gain.low, tried.gain.high))
        gained = f"; by these rows alone the gain is {low} to {high}{metric.difference_unit} (95 %)"
    return [
        f"Tried for {counted(tried.epochs, 'epoch')}, one seed: {metric.label} {exact_text(metric, tried.suggested)} "
        f"with these ranks, {exact_text(metric, tried.uniform)} with rank {result.rank} everywhere, "
        f"on {tried.rows} rows{gained}.",
        f"The runs are in {' and '.join(tried.folders.values())}.",
    ]


def role_table(result: Analysis) -> Table:
    """Return a column for each role of the layers, and a row for each figure: its median, and its range."""
    roles = by_role(result.layers)
    figures: dict[str, Callable[[Sequence[Layer]], object]] = {
        "layers": len,
        "numerical rank": lambda layers: _span([layer.ranks.numerical for layer in layers], "{:.0f}".format),
        "stable rank": lambda layers: _span([layer.ranks.stable for layer in layers], "{:.1f}".format),
        "effective rank": lambda layers: _span([layer.ranks.effective for layer in layers], "{:.1f}".format),
        **{f"rank of {percent} % of the energy": partial(_energy, percent) for percent in (90, 95, 99)},
        "size, % of the weight": lambda layers: _span([100 * layer.relative for layer in layers], "{:.2f}".format),
    }
    if any(layer.base for layer in result.layers):
        figures |= {
            "overlap with the base, input": partial(_overlap, "right"),
            "overlap with the base, output": partial(_overlap, "left"),
            "intruders": lambda layers: sum(layer.base.intruders for layer in layers if layer.base is not None),
        }
    rows = [[name, *(figure(layers) for layers in roles.values())] for name, figure in figures.items()]
    return _table(["median (range)", *roles], rows)


def _energy(percent: int, layers: Sequence[Layer]) -> str:
    return _span([layer.ranks.energy[percent] for layer in layers], "{:.0f}".format)


def _overlap(side: str, layers: Sequence[Layer]) -> str:
    return _span([getattr(layer.base.overlap, side) for layer in layers if layer.base], "{:.2f}".format)


def _legend(result: Analysis) -> Iterator[str]:
    """Say what the figures of the table are."""
    yield "numerical: singular values above rounding · stable: the sum of their squares over the largest square"
    yield "effective: exp of the entropy of their shares · energy: the fewest directions with that share of the squares"
    if any(layer.base for layer in result.layers):
        yield "overlap: the share of the update's leading directions that the base's have too, from 0 to 1"
        yield "intruders: leading directions of the tuned weights, unlike any of the base's; many go with forgetting"
    if any(layer.place.role == "mixer" for layer in result.layers):
        yield "mixer: layers that mix positions without attention, such as Mamba's"
    if any(layer.place.block is None for layer in result.layers):
        yield "outside: layers that are in none of the model's blocks"


def _curve_table(curve: CutCurve, columns: int | None) -> list[str]:
    return [
        "",
        f"measured on {curve.rows:,} rows of {curve.split}, with every layer cut to the rank",
        curve_table(curve).screen(columns),
    ]


def _cut(cut: Cut, curve: CutCurve | None) -> list[str]:
    metric = METRICS[next(iter(cut.uniform.scores)) if curve is None else curve.score]
    uniform, by_layer, again = (
        exact_text(metric, each) for each in (cut.uniform.scores, cut.by_energy.scores, cut.again)
    )
    how = "ranks by layer" if cut.per_layer else f"rank {cut.to} everywhere"
    return [
        "",
        f"cut     {cut.folder}: {how}, {count_text(cut.chosen.parameters)} parameters",
        f"        {cut_text(cut, metric)}",
        f"        {metric.label} {uniform} at rank {cut.to} everywhere, {by_layer} by layer with no more parameters; "
        f"loaded again {again}",
    ]


def _span(values: Sequence[float], text: Callable[[float], str]) -> str:
    if not values:
        return "–"
    median, least, most = middle(values)
    return text(median) if least == most else f"{text(median)} ({text(least)}–{text(most)})"


def _table(head: list[str], rows: list[list[object]]) -> Table:
    return Table(columns=[Column(name=name, right=i > 0) for i, name in enumerate(head)], rows=rows)
