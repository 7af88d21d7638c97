"""A comparison's page: what came of it, arranged for the template beside this file; Markdown and CSV beside it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ...formats.files import write_text
from ...outside import printable, shown_lines
from ...show.page import label, templates
from ...show.plots import MARKS, Figure
from ...show.units import UNKNOWN
from ...tasks.page import capitalized
from ...training.journal import first_event
from .curves import points_of
from .export import as_markdown
from .plots import ScoreCurve, curve_plot, pareto_plot
from .result import ComparisonResult
from .samples import ROWS_SHOWN, disagreements, texts_side_by_side
from .sensitivity import legend
from .table import COSTS, MethodRow, Quantity, naive_of
from .tables import (
    EQUAL,
    costs_table,
    equals,
    equals_text,
    forgetting_means,
    methods_table,
    runs_table,
    sensitivity_table,
    sequences_table,
    shown,
    tried_table,
)
from .trial import name_of_data

_SAMPLES = 8
_DEFAULT_AXES = (*COSTS, "forgetting")


@dataclass(frozen=True, kw_only=True)
class ParetoPlot:
    """A plot of one quantity against another."""

    x: Quantity
    y: Quantity
    figure: Figure


def write_comparison(result: ComparisonResult) -> Path:
    """Write report.html, report.md and report.csv into the comparison's folder, each whole; returns the page's path."""
    path = result.folder / "report.html"
    write_text(result.folder / "report.csv", runs_table(result.table).csv())
    write_text(result.folder / "report.md", shown_lines(as_markdown(result)))
    write_text(path, render(result))
    return path


def render(result: ComparisonResult) -> str:
    """Return the page as text."""
    return printable(templates("lab/compare").get_template("compare.html.j2").render(_page(result)))


def _page(result: ComparisonResult) -> dict[str, object]:
    table, there = result.table, shown(result.table)
    plots = pareto_plots(table.finished, there)
    tasks = [result.comparison.data.path, *result.comparison.then]
    names = [name_of_data(path) for path in tasks]
    different = disagreements(table.finished)
    return {
        "result": result,
        "table": table,
        "equal": EQUAL,
        "equals_text": equals_text(result),
        "scores": methods_table(table, [q for q in there if q.is_score], html=_marked(result)),
        "spent": methods_table(table, [q for q in there if not q.is_score], html=_marked(result), failures=False),
        "advice": result.advice,
        "failed": result.failed,
        "plots": plots,
        "default_plots": [p for p in plots if p.y is table.score and p.x.key in _DEFAULT_AXES],
        "x_axes": list(dict.fromkeys(p.x for p in plots)),
        "y_axes": list(dict.fromkeys(p.y for p in plots)),
        "families": {row.family: _mark(row.family) for row in table.finished},
        "is_forgetting_measured": any("forgetting" in row.spreads for row in table.rows),
        "forgetting_means": forgetting_means(table.finished),
        "curves": _curves(table.finished, table.score),
        "costs": costs_table(table.finished),
        "sequences": sequences_table(result, names if len(set(names)) == len(tasks) else tasks),
        "tried": tried_table(result),
        "sensitivity": sensitivity_table(result),
        "sensitivity_legend": legend(table.score.unit.is_share),
        "samples": texts_side_by_side(table.finished),
        "disagreements": different[:ROWS_SHOWN],
        "disagreeing": len(different),
        "samples_in_sight": _SAMPLES,
        "tasks": tasks,
        "versions": table.finished[0].runs[0].summary["versions"] if table.finished else {},
        "machine": table.finished[0].runs[0].summary if table.finished else {},
        "rates": _rates(table.finished),
    }


def pareto_plots(rows: tuple[MethodRow, ...], there: list[Quantity]) -> list[ParetoPlot]:
    """Plot every score, and forgetting, against every cost, and forgetting."""
    across = [q for q in there if not q.is_score]
    up = [q for q in there if q.is_score or q.key == "forgetting"]
    return [_plot(rows, x, y) for x, y in itertools.product(across, up) if x is not y]


def _plot(rows: tuple[MethodRow, ...], x: Quantity, y: Quantity) -> ParetoPlot:
    parts = [
        f"{row.label}: {y.text(row.spreads[y.key].mean)} at {x.text(row.spreads[x.key].mean)}"
        for row in rows
        if {x.key, y.key} <= row.spreads.keys()
    ]
    figure = Figure(
        title=f"{capitalized(y.name)} against {x.name}",
        description=f"{y.name} against {x.name}. {'; '.join(parts)}.",
        chart=pareto_plot(rows, x, y),
    )
    return ParetoPlot(x=x, y=y, figure=figure)


def _marked(result: ComparisonResult) -> Callable[[str], Markup]:
    """Return what marks up a method's name: its family's mark before it, a sign after those as good as the best."""
    family = {row.label: row.family for row in result.table.rows}
    same = equals(result)
    equal = Markup(f' <span class="equal" title="cannot be told from the best">{EQUAL}</span>')

    def html(name: str) -> Markup:
        return _mark(family[name]) + label(name) + (equal if name in same else "")

    return html


def _mark(family: str) -> Markup:
    svg = '<svg class="mark" viewBox="-8 -8 16 16" aria-hidden="true"><path class="shape family-{}" d="{}"/></svg>'
    return Markup(svg).format(family, MARKS[family])


def _curves(rows: tuple[MethodRow, ...], score: Quantity) -> list[Figure]:
    """Draw each contender's learning curves, with what is scored on valid without reading the inputs."""
    first = rows[0].runs[0] if rows else None
    naive = naive_of([first.summary], first_event(first.folder, "data"), "valid") if first else None
    curves = [
        ScoreCurve(label=row.label, family=row.family, points=points)
        for row in rows
        for run in row.runs
        if (points := points_of(run, score.key))
    ]
    labels = dict.fromkeys(curve.label for curve in curves)
    return [
        Figure(title=name, description=f"Learning curve of {name}", chart=curve_plot(name, curves, score, naive))
        for name in labels
    ]


def _rates(rows: tuple[MethodRow, ...]) -> list[tuple[str, str, str]]:
    """Return each contender's learning rate and steps, as its first run had them."""
    found = []
    for row in rows:
        run = row.runs[0]
        rate = first_event(run.folder, "method").get("learning_rate")
        found.append((row.label, UNKNOWN if rate is None else f"{rate:.3g}", str(run.summary["steps"])))
    return found
