"""The results of `inlay rank` as text."""

from collections.abc import Callable, Sequence

from ...show.table import Column, Table
from ...show.units import count_text, counted, seconds_text
from ...tasks.metric import METRICS
from .advice import advice
from .analysis import Analysis, by_role, middle
from .curve import CutCurve
from .export import Cut
from .page import curve_table
from .suggestion import Suggestion


def analysis_screen(result: Analysis) -> str:
    thin = sum(layer.way == "thin" for layer in result.layers)
    ways = [f"{thin} from thin factors"] if thin else []
    ways += [f"{len(result.layers) - thin} from the whole change"] if thin < len(result.layers) else []
    lines = [
        f"{result.folder}: {result.method} on {result.model}, the update of {len(result.layers)} weights "
        f"({', '.join(ways)})",
        "",
        role_table(result).screen(),
        "median (range) over the layers",
        *(_curve_table(result.curve) if result.curve else []),
        *(_cut(result.cut, result.curve) if result.cut else []),
        "",
        *(f"· {sentence}" for sentence in (*advice(result), *result.notes)),
        "",
        "time    " + ", ".join(f"{name} {seconds_text(value)}" for name, value in result.seconds.items()),
    ]
    return "\n".join(lines)


def suggestion_screen(result: Suggestion) -> str:
    origin = "the variance of their inputs" if result.origin == "activations" else "the first gradients"
    lines = [
        f"ranks of {len(result.layers)} layers by {origin}: {count_text(result.parameters)} parameters, where rank "
        f"{result.rank} everywhere takes {count_text(result.uniform_parameters)}",
        "",
        ranks_table(result).screen(),
        "",
        *(f"· {sentence}" for sentence in suggestion_notes(result)),
    ]
    if result.settings_file is not None:
        lines += ["", f"settings {result.settings_file}", f"next     inlay train --config {result.settings_file}"]
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
        f"What the answers in the data say needs rank {result.floor} at least (2 bits a parameter); whether more "
        "helps, only training tells.",
        *_agreed(result),
        *_tried(result),
    ]


def _agreed(result: Suggestion) -> list[str]:
    if result.origin != "gradients":
        return []
    enough = _span([layer.enough for layer in result.layers], "{:.0f}".format)
    return [f"Nine tenths of what two halves of the gradients agree on lie in {enough} directions of a layer."]


def _tried(result: Suggestion) -> list[str]:
    if (tried := result.tried) is None:
        return ["Not tried: --try trains with these ranks and with one rank everywhere, and compares."]
    metric, gained = METRICS[tried.score], ""
    if tried.gain is not None:
        low, high = (metric.unit.change(value) for value in (tried.gain.low, tried.gain.high))
        gained = f"; by these rows alone the gain is {low} to {high}{metric.difference_unit} (95 %)"
    key = metric.name
    return [
        f"Tried for {counted(tried.epochs, 'epoch')}, one seed: {metric.label} {tried.suggested[key]:.4f} with these "
        f"ranks, {tried.uniform[key]:.4f} with rank {result.rank} everywhere, on {tried.rows} rows{gained}.",
        f"The runs are in {' and '.join(tried.folders.values())}.",
    ]


def role_table(result: Analysis) -> Table:
    """Return the ranks of the update by the role of its layers: of each the median, and the range."""
    with_base = any(layer.base for layer in result.layers)
    head = ["role", "layers", "numerical", "stable", "effective", "90 %", "95 %", "99 %", "size of W"]
    head += ["overlap in", "out", "intruders"] if with_base else []
    rows = []
    for role, layers in by_role(result.layers).items():
        ranks = [layer.ranks for layer in layers]
        row: list[object] = [role, len(layers), _span([r.numerical for r in ranks], "{:.0f}".format)]
        row += [_span([getattr(r, name) for r in ranks], "{:.1f}".format) for name in ("stable", "effective")]
        row += [_span([r.energy[percent] for r in ranks], "{:.0f}".format) for percent in (90, 95, 99)]
        row.append(_span([layer.relative for layer in layers], "{:.2%}".format))
        if with_base:
            known = [layer.base for layer in layers if layer.base is not None]
            row += [_span([getattr(b.overlap, s) for b in known], "{:.2f}".format) for s in ("right", "left")]
            row.append(sum(b.intruders for b in known))
        rows.append(row)
    return _table(head, rows)


def _curve_table(curve: CutCurve) -> list[str]:
    return ["", f"measured on {curve.rows} rows of {curve.split}", curve_table(curve).screen()]


def _cut(cut: Cut, curve: CutCurve | None) -> list[str]:
    uniform, by_energy = cut.uniform.scores, cut.by_energy.scores
    key = next(iter(uniform)) if curve is None else curve.score
    how = "ranks by layer" if cut.per_layer else f"rank {cut.to} everywhere"
    return [
        "",
        f"cut     {cut.folder}: {how}, {count_text(cut.chosen.parameters)} parameters",
        f"        {key} {uniform[key]:.4f} at rank {cut.to} everywhere, {by_energy[key]:.4f} by layer, in no more "
        f"parameters; loaded again {cut.again[key]:.4f}",
    ]


def _span(values: Sequence[float], text: Callable[[float], str]) -> str:
    if not values:
        return "–"
    median, least, most = middle(values)
    return text(median) if least == most else f"{text(median)} ({text(least)}–{text(most)})"


def _table(head: list[str], rows: list[list[object]]) -> Table:
    return Table(columns=[Column(name=name, right=i > 0) for i, name in enumerate(head)], rows=rows)
