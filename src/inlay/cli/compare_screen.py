"""The table at the end of a comparison, in a terminal."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..show.table import Table
from .safe_console import console

if TYPE_CHECKING:
    from ..lab.compare.result import ComparisonResult
    from ..lab.compare.table import Quantity, Spread


def print_result(result: "ComparisonResult") -> None:
    from ..lab.compare.tables import sequences_table

    out = console()
    out.print(_table(result))
    for row in result.table.rows:
        for seed, reason in row.failures:
            out.print(f"{row.label}, seed {seed} failed: {reason}", style="red")
    if result.sequences:
        out.print(sequences_table(result))
    if result.advice is not None:
        out.print(result.advice.text)
    print(f"\nreport  {result.folder}/report.html (beside it report.md, report.csv)")


def _table(result: "ComparisonResult") -> Table:
    """Return the score, what it cost and what was forgotten, with headings broken: a terminal has no room for all."""
    from ..lab.compare.table import COSTS
    from ..lab.compare.tables import methods_table, shown

    quantities = [q for q in shown(result.table) if q.key in (*COSTS, "forgetting")]
    found = methods_table(result.table, [result.table.score, *quantities], _text, failures=False)
    columns = [replace(column, name=column.name.replace(" ", "\n")) for column in found.columns]
    return replace(found, columns=columns)


def _text(quantity: "Quantity", found: "Spread") -> str:
    """Write a result with its deviation, and a cost without, for which a terminal has no room."""
    from ..lab.compare.table import COSTS
    from ..lab.compare.tables import with_deviation

    return quantity.text(found.mean) if quantity.key in COSTS else with_deviation(quantity, found)
