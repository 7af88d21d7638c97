"""A comparison's table for other programs and for documents: JSON objects, CSV, Markdown."""

import csv
import io
from typing import Any

from .advice import Advice
from .comparison import Compared
from .sequence import ON
from .table import Quantity, Row, SequenceRow, Table, spread_text


def table_rows(table: Table) -> list[dict[str, Any]]:
    """One object for each contender; figures are in their base units: shares, bytes, seconds."""
    return [
        {
            "method": row.label,
            "family": row.family,
            "seeds": [run.seed for run in row.runs],
            "split": table.split,
            **{
                q.key: {"mean": row.spreads[q.key].mean, "deviation": row.spreads[q.key].deviation}
                for q in table.quantities
                if q.key in row.spreads
            },
            "failures": [{"seed": seed, "reason": reason} for seed, reason in row.failures],
        }
        for row in table.rows
    ]


def advice_object(advice: Advice | None) -> dict[str, Any] | None:
    if advice is None:
        return None
    return {
        "text": advice.text,
        "best": advice.best,
        "equals": list(advice.equals),
        "recommended": advice.recommended,
        "sureness": advice.sureness,
    }


def as_csv(table: Table) -> str:
    """A line for each run, failed ones too, with what was measured of it in base units."""
    file = io.StringIO()
    names = ["method", "family", "seed", "status", "reason", *(q.key for q in table.quantities)]
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        about = {"method": row.label, "family": row.family}
        for run in row.runs:
            values = {q.key: q.read(run.summary) for q in table.quantities}
            writer.writerow(about | {"seed": run.seed, "status": "finished", **values})
        for seed, reason in row.failures:
            writer.writerow(about | {"seed": seed, "status": "failed", "reason": reason})
    return file.getvalue()


def as_markdown(result: Compared) -> str:
    table, common = result.table, result.comparison
    there = shown(table)
    lines = [f"# {common.model} · {common.data.path}", ""]
    if result.advice is not None:
        lines += [result.advice.text, ""]
    lines += [
        f"Scores are of {table.split}"
        + (f", {table.evaluated} rows" if table.evaluated else "")
        + f"; mean ± standard deviation over {common.seeds} seed{'s' if common.seeds > 1 else ''}.",
        "",
        "| method | " + " | ".join(q.name for q in there) + " |",
        "|---" * (len(there) + 1) + "|",
    ]
    lines += [line for row in table.rows for line in _markdown_rows(row, there)]
    if result.sequences:
        lines += ["", f"Learned one after another: {' → '.join([common.data.path, *common.then])}.", ""]
        lines += ["| method | way | average forgetting | backward transfer |", "|---|---|---|---|"]
        lines += [_markdown_sequence(row, table.score) for row in result.sequences]
    lines += [f"\n{note}" for note in result.notes]
    return "\n".join([*lines, "", f"`{result.command}`", ""])


def shown(table: Table) -> list[Quantity]:
    """The quantities that at least one contender has."""
    return [q for q in table.quantities if any(q.key in row.spreads for row in table.rows)]


def sequence_text(row: SequenceRow, which: str, score: Quantity) -> str:
    """Of a difference of scores: in points for accuracies."""
    found = row.forgetting if which == "forgetting" else row.backward_transfer
    if found is None:
        return "–"
    return spread_text(found, lambda value: score.unit.difference(value).replace("-", "−"))


def way_text(row: SequenceRow) -> str:
    return "one after another" if row.way == ON else "kept apart"


def _markdown_rows(row: Row, there: list[Quantity]) -> list[str]:
    lines = []
    if row.runs:
        cells = [spread_text(row.spreads.get(q.key), q.text) for q in there]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    for seed, reason in row.failures:
        told = f"seed {seed} failed: {' '.join(reason.split())}".replace("|", "\\|")
        lines.append(f"| {row.label} | {told} |" + " |" * (len(there) - 1))
    return lines


def _markdown_sequence(row: SequenceRow, score: Quantity) -> str:
    forgot = f"failed: {row.reason}" if row.matrix is None else sequence_text(row, "forgetting", score)
    return f"| {row.label} | {way_text(row)} | {forgot} | {sequence_text(row, 'backward transfer', score)} |"
