"""Splits with too few rows to judge a classifier by."""

from collections.abc import Iterator, Mapping

from ..show.units import counted, shares_text
from ..stats import wilson_interval
from .problems import shown

_FEW, _FEW_OF_LABEL = 100, 10  # rows: below that a share is known to ±10 points, or ±25

_SPARED, _ENOUGH = 0.2, 100  # a share of the rows, and a number of them, that it takes to judge by


def small_splits(splits: Mapping[str, Mapping[str, int]], holds_out: bool = False) -> Iterator[tuple[str, str]]:
    """Yield each split but train that is small, and a sentence on how sure a score on it can be. `splits` has the rows
    of each label; of a valid split that is what was held out of train the sentence says how more are, too.
    """
    for split, labels in splits.items():
        rows = sum(labels.values())
        rarest = min(
            (label for label in labels if labels[label]), key=lambda label: (labels[label], label), default=None
        )
        if split == "train" or rarest is None or len(labels) < 2:
            continue
        few = labels[rarest]
        of_label = f"{counted(few, 'row')} of {shown(rarest)}"
        if rows < _FEW:
            half = shares_text(wilson_interval(0.5, rows))
            whole = (
                f"an accuracy of 50 % on its {counted(rows, 'row')} means {half} % (95 %), one of 100 % {_sure(rows)} %"
            )
            more = _more_held_out(sum(splits["train"].values()), rows) if holds_out and split == "valid" else ""
            yield split, f"{split} is small: {whole}; a recall of 100 % on the {of_label} means {_sure(few)} %{more}"
        elif few < _FEW_OF_LABEL:
            yield split, f"{split} has {of_label}: a recall of 100 % on them means {_sure(few)} % (95 %)"


def _more_held_out(train: int, valid: int) -> str:
    """Say how more rows are held out, if a share of them that can be spared is clearly more."""
    share = min(_SPARED, _ENOUGH / (train + valid))
    more = round(share * (train + valid))
    return f"; --data.valid-fraction {share:.2g} holds out about {more}" if more >= 1.5 * valid else ""


def _sure(rows: int) -> str:
    """Write where the true share lies if all of so many rows are right."""
    return shares_text(wilson_interval(1, rows))
