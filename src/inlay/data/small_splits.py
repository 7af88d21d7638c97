"""Splits with too few rows to judge a classifier by."""

from collections.abc import Iterator, Mapping

from ..show.units import counted
from ..stats import wilson_interval
from .problems import shown

_FEW, _FEW_OF_LABEL = 100, 10  # rows: below that a share is known to ±10 points, or ±25


def small_splits(splits: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str]]:
    """Yield each split but train that is small, and a sentence on how sure a score on it can be. `splits` has the rows
    of each label.
    """
    for split, labels in splits.items():
        rows = sum(labels.values())
        rarest = min((label for label in labels if labels[label]), key=lambda label: labels[label], default=None)
        if split == "train" or rarest is None or len(labels) < 2:
            continue
        few = labels[rarest]
        of_label = f"{counted(few, 'row')} of {shown(rarest)}"
        if rows < _FEW:
            whole = f"{split} is small: {counted(rows, 'row')} tell an accuracy to ±{_points(rows)} points"
            yield split, f"{whole}, {of_label} its recall to ±{_points(few)} (95 %)"
        elif few < _FEW_OF_LABEL:
            yield split, f"{split} has {of_label}, enough to tell its recall to ±{_points(few)} points (95 %)"


def _points(rows: int) -> int:
    """Return half the width of the interval of a share of so many rows, where it is widest."""
    low, high = wilson_interval(0.5, rows)
    return round(50 * (high - low))
