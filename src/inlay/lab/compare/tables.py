"""A comparison's tables: for its page, its Markdown and its CSV, and the screen."""

import math
from collections.abc import Callable, Collection, Sequence

from markupsafe import Markup

from ...formats.summary import Summary, planned_seconds
from ...show.forgetting import MOVED
from ...show.page import label
from ...show.table import Column, Table
from ...show.units import UNKNOWN, bytes_text, excess_text, seconds_text
from .result import ComparisonResult
from .sensitivity import sensitivities
from .sequence import ON
from .table import MethodRow, MethodTable, Quantity, SequenceRow, Spread, spread, spread_text

Text = Callable[[Quantity, Spread], str]

EQUAL = "≈"  # behind a method that cannot be told from the best


def shown(measured: MethodTable) -> list[Quantity]:
    """Return the quantities that at least one contender has; where none finished, the score."""
    there = [q for q in measured.quantities if any(q.key in row.spreads for row in measured.rows)]
    return there or [measured.score]


def with_deviation(quantity: Quantity, found: Spread) -> str:
    """Write a mean and its deviation."""
    return spread_text(found, quantity.text)


def equals(result: ComparisonResult) -> set[str]:
    """Return the contenders beside the best that cannot be told from it."""
    return set(result.advice.equals) - {result.advice.best} if result.advice else set()


def equals_text(result: ComparisonResult) -> str | None:
    """Say what the sign behind those means, without the sign and as no sentence of its own; None if there are none."""
    if result.advice is None or not equals(result):
        return None
    cannot = "these rows cannot tell" if result.advice.one_seed else "cannot be told"
    together = " at 95 % for all methods together" if len(result.table.finished) > 2 else " at 95 %"
    return f"marks methods that {cannot} from {result.advice.best}, the best by {result.table.score.name},{together}"


def methods_table(
    measured: MethodTable,
    quantities: Sequence[Quantity],
    text: Text = with_deviation,
    html: Callable[[str], Markup] = label,
    failures: bool = True,
    marked: Collection[str] = (),
) -> Table:
    """Return a row for each contender with what was measured of it, and one for each run that failed. Those that are
    `marked` have the sign of equality behind their name."""
    columns = [Column(name="method", html=html), *(_column(quantity, text) for quantity in quantities)]
    rows: list[Sequence[object]] = []
    for row in measured.rows:
        if row.runs:
            name = f"{row.label} {EQUAL}" if row.label in marked else row.label
            rows.append([name, *(row.spreads.get(q.key) for q in quantities)])
        rows += [[row.label, f"seed {seed} failed: {reason}"] for seed, reason in row.failures if failures]
    return Table(columns=columns, rows=rows)


def runs_table(measured: MethodTable) -> Table:
    """Return a row for each run, failed ones too, with what was measured of it in base units."""
    names = ["method", "family", "seed", "status", "reason", *(q.key for q in measured.quantities)]
    rows: list[Sequence[object]] = []
    for row in measured.rows:
        rows += [
            [row.label, row.family, run.seed, "finished", None, *(q.read(run.summary) for q in measured.quantities)]
            for run in row.runs
        ]
        nothing = [None] * len(measured.quantities)
        rows += [[row.label, row.family, seed, "failed", reason, *nothing] for seed, reason in row.failures]
    return Table(columns=[Column(name=name) for name in names], rows=rows)


def sequences_table(result: ComparisonResult, tasks: Sequence[str] = ()) -> Table:
    """Return what became of tasks learned one after another; of named `tasks`, each one's score when it was learned
    and at the end."""
    score = result.table.score
    columns = [Column(name="method", html=label), Column(name="way")]
    columns += [Column(name=name, right=True) for name in ("average forgetting", "backward transfer")]
    columns += [Column(name=f"{name}: learned → at the end", right=True) for name in tasks]
    rows = []
    for row in result.sequences:
        way = "one after another" if row.way == ON else "kept apart"
        if row.matrix is None:
            rows.append([row.label, way, f"failed: {row.reason}"])
            continue
        learned, end = [row.matrix[i][i] for i in range(len(tasks))], row.matrix[-1]
        each = [f"{score_text(score, a)} → {score_text(score, b)}" for a, b in zip(learned, end, strict=False)]
        rows.append([row.label, way, *_lost(row, score), *each])
    return Table(columns=columns, rows=rows)


def costs_table(rows: Sequence[MethodRow]) -> Table:
    """Return what each contender was predicted to cost, of the steps that its runs took, and what it cost."""
    columns = [Column(name="method", html=label)]
    for name in ("time of the steps taken" if _stopped_early(rows) else "time", "memory"):
        columns += [Column(name=each, right=True) for each in (f"{name}, predicted", "actual", "difference")]
    return Table(
        columns=columns,
        rows=[
            [
                row.label,
                *_planned_and_actual(row, planned_seconds, "train_seconds", seconds_text),
                *_planned_and_actual(row, _planned_bytes, "peak_memory_bytes", bytes_text),
            ]
            for row in rows
        ],
    )


def tried_table(result: ComparisonResult) -> Table:
    """Return the learning rates that were tried."""
    columns = [Column(name="method", html=label), Column(name="learning rate", text="{:.3g}".format, right=True)]
    columns.append(Column(name="score on valid", text=lambda value: score_text(result.table.score, value), right=True))
    tried = sorted(result.tried, key=lambda each: (each.label, each.learning_rate))
    return Table(
        columns=columns,
        rows=[[t.label, t.learning_rate, t.reason if t.score is None else t.score] for t in tried],
    )


def sensitivity_table(result: ComparisonResult) -> Table:
    """Return how far a learning rate can be from the best, for each method of which enough were tried."""
    score = result.table.score
    names = ("method", "best rate", "as good", "factor", "lost at the worst")
    columns = [Column(name=name, right=name != "method", html=label if name == "method" else None) for name in names]
    found = sensitivities(result.tried, is_share=score.unit.is_share)
    return Table(
        columns=columns,
        rows=[
            [
                each.label,
                f"{each.best:.2g}",
                f"{each.lowest:.2g} to {each.highest:.2g}",
                f"{each.factor:.2g}",
                score.unit.difference(each.worst) if math.isfinite(each.worst) else "the run failed",
            ]
            for each in found
        ],
    )


def score_text(score: Quantity, value: float) -> str:
    """Write a score of which more is better, whatever it is: losses are negative here."""
    return score.text(score.sign * value)


def forgetting_means(rows: Sequence[MethodRow]) -> str:
    """Say what the number is, by the task."""
    measures = {found["measure"] for row in rows for run in row.runs if (found := run.summary.get("forgetting"))}
    means = {
        "loss": "how many nats per token the cross-entropy on general text rose, tuned minus base; 0 is none",
        "geometry": f"how far embeddings of general text moved ({MOVED})",
    }
    return "; ".join(means[measure] for measure in sorted(measures))


def _column(quantity: Quantity, text: Text) -> Column:
    return Column(name=quantity.name, text=lambda found: text(quantity, found), right=True)


def _lost(row: SequenceRow, score: Quantity) -> list[str]:
    return [
        UNKNOWN if found is None else spread_text(found, lambda value: score.unit.difference(value).replace("-", "−"))
        for found in (row.forgetting, row.backward_transfer)
    ]


def _planned_and_actual(
    row: MethodRow, planned: Callable[[Summary], float | None], actual: str, text: Callable[[float], str]
) -> tuple[str, str, str]:
    of_plans = spread([planned(run.summary) for run in row.runs])
    of_runs = spread([run.summary[actual] for run in row.runs])
    more = excess_text(of_plans and of_plans.mean, of_runs and of_runs.mean)
    return spread_text(of_plans, text), spread_text(of_runs, text), more


def _planned_bytes(summary: Summary) -> float | None:
    return summary["plan"]["memory_bytes"]


def _stopped_early(rows: Sequence[MethodRow]) -> bool:
    """Tell whether a run took fewer steps than were planned."""
    found = [run.summary for row in rows for run in row.runs]
    return any(each["steps"] < each.get("planned_steps", 0) for each in found)
