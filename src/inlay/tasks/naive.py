"""The score that is had without reading an input, which a model has to exceed to have learned something.

It is the most frequent label, the base model itself, the copied prompt: each task says which (`Task.naive`). A new head
that answers at random is none. Screen, summary, report and plots of a run, `eval` and a comparison take it from here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..formats.summary import Beaten, Summary
from ..outside import shown
from .metric import METRICS, Scores

MOST_FREQUENT = "the most frequent label"
_LONGEST_ANSWER = 40  # letters


@dataclass(frozen=True, kw_only=True)
class NaiveBaseline:
    """What is answered without reading an input, and the scores of that on a split."""

    name: str
    """Such as `the most frequent label`."""
    answer: str | None = None
    """The answer itself, if every row gets the same."""
    scores: Scores

    @property
    def told(self) -> str:
        """The name with the answer: `the most frequent label, "ham"`."""
        if self.answer is None:
            return self.name
        cut = self.answer if len(self.answer) <= _LONGEST_ANSWER else self.answer[: _LONGEST_ANSWER - 1] + "…"
        return f'{self.name}, "{shown(cut)}"'


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A tuned model's scores beside the naive ones, split by split."""

    by: str
    """The metric that decides."""
    naive: Mapping[str, NaiveBaseline]
    tuned: Mapping[str, Scores]
    same: Mapping[str, str]
    """The one answer that every row gets, by the splits where that is so."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """How many rows each split has, as far as that is known."""

    @property
    def not_beaten(self) -> str | None:
        """The first split on which the model is not above the baseline; None if there is none, or nothing is known."""
        return next((split for split in self._known if not self._is_above(split)), None)

    @property
    def beaten(self) -> bool | None:
        """Whether the model is above the baseline on every split; None where none has both."""
        return self.not_beaten is None if self._known else None

    @property
    def finding(self) -> str | None:
        """Say that the model is not above the baseline, and whether all rows get one answer; None if it is above."""
        if (split := self.not_beaten) is None:
            return None
        metric, naive = METRICS[self.by], self.naive[split]
        tuned = metric.text_on(self.tuned[split][self.by], self.rows.get(split))
        floor = metric.text(naive.scores[self.by])
        one = f'; every row gets "{shown(self.same[split])}"' if split in self.same else ""
        return f"{metric.label} {tuned} on {split} is no better than {naive.told} ({floor}){one}"

    def as_dict(self, advice: str) -> Beaten:
        """Return what summary.json says; `advice` is what to try if the baseline is not beaten."""
        first = next(iter(self.naive.values()), None)
        scores = {split: dict(each.scores) for split, each in self.naive.items()}
        return {
            "name": first.name if first else None,
            "answer": first.answer if first else None,
            "valid": scores.get("valid"),
            "test": scores.get("test"),
            "beaten": self.beaten,
            "finding": self.finding,
            "advice": advice if self.finding else None,
        }

    @property
    def _known(self) -> list[str]:
        both = {split: (of, self.naive[split].scores) for split, of in self.tuned.items() if split in self.naive}
        return [s for s, scores in both.items() if all(math.isfinite(of.get(self.by, math.nan)) for of in scores)]

    def _is_above(self, split: str) -> bool:
        sign = METRICS[self.by].sign
        return sign * self.tuned[split][self.by] > sign * self.naive[split].scores[self.by]


def naive_in(summary: Summary, split: Literal["valid", "test"]) -> NaiveBaseline | None:
    """Read the baseline of a split from a summary; None if that has none, as those of earlier versions."""
    found = summary.get("baseline")
    scores = found and found[split]
    if not found or not scores or found["name"] is None:
        return None
    return NaiveBaseline(name=found["name"], answer=found["answer"], scores=scores)


def warning_of(told: Mapping[str, object]) -> str | None:
    """Say what a summary, or the event of a run's end, has found of a model that is not above its baseline, and what to
    try; None if it is above, or if that is not known."""
    baseline = told.get("baseline")
    if not isinstance(baseline, dict) or not baseline["finding"]:
        return None
    return f"{baseline['finding']}. {baseline['advice']}"
