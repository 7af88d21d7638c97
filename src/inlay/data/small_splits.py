"""Splits with too few rows to judge a classifier by."""

from collections.abc import Iterator, Mapping

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
        if rows >= _FEW and few >= _FEW_OF_LABEL:
            continue
        own = "its row" if few == 1 else f"its {few} rows"
        yield (
            split,
            f"{split} is small: its {rows} rows tell an accuracy to ±{_points(rows)} points, {own} of {shown(rarest)} "
            f"the recall of that label to ±{_points(few)} (95 %)",
        )


def _points(rows: int) -> int:
    """Return half the width of the interval of a share of so many rows, where it is widest."""
    low, high = wilson_interval(0.5, rows)
    return round(50 * (high - low))
