"""What a model answered: to the rows of a split, with its scores, and to one input."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..formats.summary import GainOverBase
from ..stats import Difference
from .metric import Scores

_SAME = 0.1  # of the base's spread: below that, rows are not told apart


@dataclass(frozen=True)
class Evaluation:
    """A model's scores and predictions on a split."""

    scores: Scores
    parts: Any
    """What `main_score` is the mean of, so that two models can be compared: Shares or Means (stats.py)."""
    predictions: Any
    """What predictions.jsonl is written from, as far as there is something."""
    spread: float | None = None
    """How far the answers to different rows differ, on a scale of the task's own; None: that says nothing here."""

    def gain(self, base: Self | None) -> GainOverBase | None:
        """Return how much better the main score is than the base's, by pairs of rows; None without a base, or of one
        row, which says nothing of others."""
        found: Difference | None = None if base is None else self.parts.gain(base.parts)
        if found is None or not math.isfinite(found.low):
            return None
        return {"value": found.value, "low": found.low, "high": found.high}

    def same_answer(self, base: Self) -> bool:
        """Tell whether every row gets the same answer, which is so even of an untrained head only by a collapse."""
        return self.spread is not None and base.spread is not None and self.spread < _SAME * base.spread


@dataclass(frozen=True)
class Answer:
    """A model's answer to one input."""

    values: dict[str, Any]
    """The answer and what it answers, as JSON."""
    alone: str
    """How a screen shows it by itself."""
    line: str
    """How a screen shows it as one of many."""
    columns: Mapping[str, object] = field(default_factory=dict)
    """What a table of answers has of it, beside what the input's row has; nothing: all of `values`."""
    cut: bool = False
    """Whether it has no end, as there was no room for more tokens."""
