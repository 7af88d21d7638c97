"""A comparison's page: what came of it, arranged for the template beside this file; Markdown and CSV beside it."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...formats.files import write_text
from ...outside import printable, shown_lines
from ...report.html import templates
from ...report.run_files import read_run
from ...show.units import bytes_text, seconds_text
from .comparison import Compared
from .export import as_csv, as_markdown, sequence_text, shown, way_text
from .plots import SHAPES, Curve, curve_plot, pareto_plot
from .samples import disagreements, texts_side_by_side
from .table import COSTS, Finished, Quantity, Row, Spread, spread, spread_text
from .trial import first_event, name_of_data

_SAMPLES = 8
_DEFAULT_AXES = (*COSTS, "forgetting")


@dataclass(frozen=True, kw_only=True)
class ParetoPlot:
    x: Quantity
    y: Quantity
    svg: Markup
    description: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    label: str
    seconds: tuple[str, str, str]  # planned, actual, difference
    memory: tuple[str, str, str]


def write_comparison(result: Compared) -> Path:
    """report.html, report.md and report.csv stand in the comparison's folder, each whole."""
    path = result.folder / "report.html"
    write_text(result.folder / "report.csv", as_csv(result.table))
    write_text(result.folder / "report.md", shown_lines(as_markdown(result)))
    write_text(path, render(result))
    return path


def render(result: Compared) -> str:
    """The page as text."""
    return printable(templates("lab/compare").get_template("compare.html.j2").render(_page(result)))


def _page(result: Compared) -> dict[str, Any]:
    table, there = result.table, shown(result.table)
    plots = pareto_plots(table.finished, there)
    tasks = [result.comparison.data.path, *result.comparison.then]
    names = [name_of_data(path) for path in tasks]
    return {
        "result": result,
        "table": table,
        "quantities": there,
        "spread_text": spread_text,
        "advice": result.advice,
        "failed": result.failed,
        "plots": plots,
        "default_plots": [p for p in plots if p.y is table.score and p.x.key in _DEFAULT_AXES],
        "x_axes": list(dict.fromkeys(p.x for p in plots)),
        "y_axes": list(dict.fromkeys(p.y for p in plots)),
        "shapes": {row.family: SHAPES[row.family] for row in table.finished},
        "is_forgetting_measured": any("forgetting" in row.spreads for row in table.rows),
        "forgetting_means": _forgetting_means(table.finished),
        "curves": _curves(table.finished, table.score),
        "costs": [_cost(row) for row in table.finished],
        "samples": texts_side_by_side(table.finished),
        "disagreements": disagreements(table.finished),
        "samples_in_sight": _SAMPLES,
        "sequence_text": sequence_text,
        "way_text": way_text,
        "tasks": tasks,
        "task_names": names if len(set(names)) == len(tasks) else tasks,
        "score_text": table.score.text if table.score.sign > 0 else lambda value: table.score.text(-value),
        "versions": table.finished[0].runs[0].summary["versions"] if table.finished else {},
        "machine": table.finished[0].runs[0].summary if table.finished else {},
        "rates": _rates(table.finished),
    }


def pareto_plots(rows: tuple[Row, ...], there: list[Quantity]) -> list[ParetoPlot]:
    """Every score, and forgetting, against every cost, and forgetting."""
    across = [q for q in there if not q.is_score]
    up = [q for q in there if q.is_score or q.key == "forgetting"]
    return [
        ParetoPlot(x=x, y=y, svg=pareto_plot(rows, x, y), description=_described(rows, x, y))
        for x, y in itertools.product(across, up)
        if x is not y
    ]


def _described(rows: tuple[Row, ...], x: Quantity, y: Quantity) -> str:
    parts = [
        f"{row.label}: {y.text(row.spreads[y.key].mean)} at {x.text(row.spreads[x.key].mean)}"
        for row in rows
        if {x.key, y.key} <= row.spreads.keys()
    ]
    return f"{y.name} against {x.name}. {'; '.join(parts)}."


def _forgetting_means(rows: tuple[Row, ...]) -> str:
    """What the number is, by the task."""
    measures = {r.summary["forgetting"]["measure"] for row in rows for r in row.runs if r.summary.get("forgetting")}
    means = {
        "loss": "how many nats per token the cross-entropy on general text rose, tuned minus base",
        "geometry": "1 − CKA between the base's and the tuned model's sentence representations",
    }
    return "; ".join(means[measure] for measure in sorted(measures))


def _curves(rows: tuple[Row, ...], score: Quantity) -> list[tuple[str, Markup]]:
    curves = [
        Curve(label=row.label, family=row.family, points=points)
        for row in rows
        for run in row.runs
        if (points := _points(run, score.key))
    ]
    labels = dict.fromkeys(curve.label for curve in curves)
    return [(label, curve_plot(label, curves, score)) for label in labels]


def _points(run: Finished, key: str) -> tuple[tuple[float, float], ...]:
    return tuple((e["epoch"], e[key]) for e in read_run(run.folder).evaluations if e.get(key) is not None)


def _cost(row: Row) -> Cost:
    def told(planned: str, actual: str, text: Any) -> tuple[str, str, str]:
        of_plans = spread([run.summary["plan"][planned] for run in row.runs])
        of_runs = spread([run.summary[actual] for run in row.runs])
        return spread_text(of_plans, text), spread_text(of_runs, text), _excess(of_plans, of_runs)

    return Cost(
        label=row.label,
        seconds=told("seconds", "train_seconds", seconds_text),
        memory=told("memory_bytes", "peak_memory_bytes", bytes_text),
    )


def _excess(planned: Spread | None, actual: Spread | None) -> str:
    if planned is None or actual is None:
        return "–"
    return f"{100 * (actual.mean / planned.mean - 1):+.0f} %".replace("-", "−")


def _rates(rows: tuple[Row, ...]) -> list[tuple[str, str, str]]:
    """Each contender's learning rate and steps, as its first run had them."""
    found = []
    for row in rows:
        run = row.runs[0]
        rate = first_event(run.folder, "method").get("learning_rate")
        found.append((row.label, "–" if rate is None else f"{rate:.3g}", str(run.summary["steps"])))
    return found
