"""Learning curves that collapsed: a run that had learned something and ended where it had begun."""

import math
from collections.abc import Iterator, Sequence

from ...formats.run_files import read_run
from ...show.plots import Points
from ...stats import normal_z
from ...training.journal import first_event
from .table import Finished, MethodRow, Quantity, naive_of

_LEARNED = 0.25  # of what the best run had learned; less than that at the end is a collapse


def points_of(run: Finished, key: str) -> Points:
    """Return the score of a run at each of its evaluations, by epoch."""
    return tuple((e["epoch"], e[key]) for e in read_run(run.folder).evaluations if e.get(key) is not None)


def curve_warnings(rows: Sequence[MethodRow], score: Quantity, searched: bool) -> dict[str, str]:
    """Say of the methods whose runs collapsed or had to go back that they did, by label, and what to do, which is no
    search where the rates are `searched` already."""
    todo = "a lower --learning-rate" if searched else "--search, for a lower one"
    return {row.label: text for row in rows for text in _warnings(row, score, todo)}


def _warnings(row: MethodRow, score: Quantity, todo: str) -> Iterator[str]:
    fell = [(run.seed, *found) for run in row.runs if (found := collapse(run, score)) is not None]
    if fell:
        seed, top, end = fell[0]
        yield (
            f"{row.label} collapsed{row.often(fell)}: on valid, seed {seed} fell from "
            f"{score.text(top)} to {score.text(end)}. Its learning rate is at the edge: try {todo}."
        )
    else:
        yield from _returns(row, todo)


def _returns(row: MethodRow, todo: str) -> Iterator[str]:
    back = [(run.seed, run.summary.get("went_back") or []) for run in row.runs]
    gone = [(seed, events[0]) for seed, events in back if events]
    if gone:
        seed, first = gone[0]
        cause = f"Its learning rate is too high for these data: try {todo}."
        if len(gone) < len(row.runs):
            others = "other" if len(gone) + 1 == len(row.runs) else "others"
            cause = f"The {others} did not, so it may be chance; its learning rate is near the edge."
        yield (
            f"{row.label} had to go back{row.often(gone)}, as the training collapsed: with seed "
            f"{seed} after step {first['step']}, for the first time. {cause}"
        )


def collapse(run: Finished, score: Quantity) -> tuple[float, float] | None:
    """Return the best score of a run that had learned and the one that it ended with, if it ended no better than its
    baseline; None if it did not collapse.

    A best score counts as learned if it is above the baseline by more than the noise of its rows.
    """
    points = [value for epoch, value in points_of(run, score.key) if epoch > 0 and math.isfinite(value)]
    floor = _floor(run, score)
    if not points or floor is None:
        return None
    top, end = score.sign * max(score.sign * value for value in points), points[-1]
    learned, left = (score.sign * (value - floor) for value in (top, end))
    return (top, end) if learned > _noise(run, score, floor) and left <= _LEARNED * learned else None


def _floor(run: Finished, score: Quantity) -> float | None:
    naive = naive_of([run.summary], first_event(run.folder, "data"), "valid")
    return naive.scores.get(score.key) if naive else None


def _noise(run: Finished, score: Quantity, floor: float) -> float:
    rows = run.summary["metrics"]["rows"]
    return normal_z() * math.sqrt(floor * (1 - floor) / rows) if score.unit.is_share and rows else 0.0
