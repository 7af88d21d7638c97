"""How much a method's score depends on its learning rate, from the rates that a search has tried."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .search import TriedRate

CLOSE = 0.02  # of a share, or of a loss
_FEW = 3  # rates that say something


def legend(is_share: bool) -> str:
    """Say how the table of sensitivities is read."""
    return (
        f"As good: rates whose score is within {'2 points' if is_share else '2 %'} of the best, and all between. The "
        "smaller the factor, the more a method depends on its rate; the most sensitive one comes first."
    )


@dataclass(frozen=True)
class Sensitivity:
    """The rates around a method's best one at which it is as good, as far as was tried."""

    label: str
    best: float  # rate
    lowest: float
    highest: float
    worst: float
    """What is lost at the worst rate that was tried, in units of the score; infinite if a run failed."""

    @property
    def factor(self) -> float:
        return self.highest / self.lowest


def sensitivities(tried: Sequence[TriedRate], *, is_share: bool) -> list[Sensitivity]:
    """Return each method's, of which at least three rates were tried, the most sensitive one first.

    A rate is as good if its score is less than two points, or 2 % of a loss, below that of the best one, and so are
    those of all rates between the two. Scores are such that more is better.
    """
    found = []
    for label in dict.fromkeys(each.label for each in tried):
        own = sorted((each for each in tried if each.label == label), key=lambda each: each.learning_rate)
        scores = [-math.inf if each.score is None else each.score for each in own]
        top = max(scores)
        if len(own) < _FEW or top == -math.inf:
            continue
        close = CLOSE if is_share else CLOSE * abs(top)
        best = next(each for each in tried if each.label == label and each.score == top)  # as the search chooses
        first = last = own.index(best)
        while first > 0 and scores[first - 1] > top - close:
            first -= 1
        while last < len(own) - 1 and scores[last + 1] > top - close:
            last += 1
        rates = [each.learning_rate for each in own]
        found.append(Sensitivity(label, best.learning_rate, rates[first], rates[last], top - min(scores)))
    return sorted(found, key=lambda each: each.factor)
