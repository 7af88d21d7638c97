"""A comparison for other programs and for documents: JSON objects, Markdown."""

from .advice import Advice
from .result import ComparisonResult
from .sensitivity import legend
from .table import MethodTable
from .tables import EQUAL, equals, equals_text, methods_table, sensitivity_table, sequences_table, shown


def table_rows(table: MethodTable) -> list[dict[str, object]]:
    """Return an object for each contender; figures are in their base units: shares, bytes, seconds."""
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


def advice_object(advice: Advice | None) -> dict[str, object] | None:
    """Return the advice with what it is drawn from."""
    if advice is None:
        return None
    return {
        "text": advice.text,
        "best": advice.best,
        "equals": list(advice.equals),
        "recommended": advice.recommended,
        "told": advice.is_told,
        "sureness": advice.sureness,
    }


def as_markdown(result: ComparisonResult) -> str:
    """Return the text of report.md."""
    table, common = result.table, result.comparison
    lines = [f"# {common.model} · {common.data.path}", ""]
    if result.advice is not None:
        lines += [result.advice.text, ""]
    rows = f", {table.evaluated} rows" if table.evaluated else ""
    seeds = f"mean ± standard deviation over {common.seeds} seeds" if common.seeds > 1 else "one seed"
    means = f" {EQUAL} {said}." if (said := equals_text(result)) else ""
    lines += [f"Scores are of {table.split}{rows}; {seeds}.{means}", ""]
    lines.append(methods_table(table, shown(table), marked=equals(result)).markdown())
    if result.sequences:
        lines += ["", f"Learned one after another: {' → '.join([common.data.path, *common.then])}.", ""]
        lines.append(sequences_table(result).markdown())
    if (sensitivity := sensitivity_table(result)).rows:
        lines += ["", "## How much the rate matters", "", legend(table.score.unit.is_share), ""]
        lines.append(sensitivity.markdown())
    lines += [f"\n{note}" for note in result.notes]
    return "\n".join([*lines, "", f"`{result.command}`", ""])
