"""The table at the end of a comparison, in a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..show.table import Table
from .screen import show, width

if TYPE_CHECKING:
    from ..lab.compare.result import ComparisonResult
    from ..lab.compare.table import Quantity, Spread


def print_result(result: "ComparisonResult") -> None:
    from ..lab.compare.tables import sequences_table

    print(_table(result).screen(width()))
    for line in _legend(result):
        show(line, indent=2)
    for row in result.table.rows:
        for seed, reason in row.failures:
            show(f"{row.label}, seed {seed} failed: {reason}", indent=2)
    if result.sequences:
        print("\n" + sequences_table(result).screen(width()))
        show("average forgetting: how far a data set's score fell from its best by the end", indent=2)
        show("backward transfer: how far it changed after the data set was learned; below 0 is a loss", indent=2)
    if result.advice is not None:
        show("\n" + result.advice.text, indent=0)
    show(f"\nreport  {result.folder}/report.html (beside it report.md, report.csv)")


def _table(result: "ComparisonResult") -> Table:
    """Return the score, what it cost and how much general text was forgotten: a terminal has no room for all."""
    from ..lab.compare.table import COSTS
    from ..lab.compare.tables import equals, methods_table, shown

    quantities = [q for q in shown(result.table) if q.key in (*COSTS, "forgetting")]
    told = [result.table.score, *quantities]
    return methods_table(result.table, told, _text, failures=False, marked=equals(result))


def _legend(result: "ComparisonResult") -> Iterator[str]:
    """Say what the sign behind a method is, and the columns whose names do not tell."""
    from ..lab.compare.tables import EQUAL, equals_text, forgetting_means

    if means := equals_text(result):
        yield f"{EQUAL} {means}"
    if means := forgetting_means(result.table.finished):
        yield f"forgetting: {means}"
    if any(len(row.runs) > 1 for row in result.table.rows):
        yield "±: the standard deviation over the seeds"


def _text(quantity: "Quantity", found: "Spread") -> str:
    """Write a result with its deviation, and a cost without, for which a terminal has no room."""
    from ..lab.compare.table import COSTS
    from ..lab.compare.tables import with_deviation

    return quantity.text(found.mean) if quantity.key in COSTS else with_deviation(quantity, found)
