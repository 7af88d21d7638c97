"""What is left of the score when the update is cut: each cut adapter is attached and evaluated.

Every difference from the whole update is taken row by row on the same data, which is far surer than that of two means.
The data is what the run chose its best step on, so the whole update's score is slightly optimistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ...attached.adapter import Adapter
from ...core.active import using
from ...stats import Difference
from ...tasks.metric import Scores
from ...tasks.task import Task
from .spectrum import Spectrum
from .truncation import NAME, attach_cut, available, parameters, uniform


@dataclass(frozen=True, kw_only=True)
class Point:
    rank: int
    """The most that a layer has."""
    parameters: int
    scores: Scores
    gain: Difference
    """Over the whole update."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    split: str
    rows: int
    score: str
    """The one that gains are of; a gain is above zero where it is better, so where a loss is lower."""
    whole: Scores
    """The scores of the update as it was trained."""
    points: list[Point]


class Measure:
    """Evaluates cuts of one adapter on one split."""

    def __init__(self, tuned: Adapter, model: nn.Module, layers: Mapping[str, Spectrum], task: Task, split: str):
        """Take `model` to attach the cuts to: the tuned model itself, unless the method has changed the base."""
        self.tuned, self.model, self.layers, self.task, self.split = tuned, model, layers, task, split
        with using(tuned.model, tuned.name):
            self.whole = task.evaluate(tuned.model, split)

    def point(self, chosen: Mapping[str, int]) -> Point:
        adapter = attach_cut(self.model, self.layers, chosen, self.tuned)
        try:
            with using(self.model, NAME):
                found = self.task.evaluate(self.model, self.split)
        finally:
            adapter.detach()
        size = parameters(self.layers, chosen)
        gain = found.parts.gain(self.whole.parts)
        return Point(rank=max(chosen.values()), parameters=size, scores=found.scores, gain=gain)

    def curve(self, wanted: Sequence[int]) -> Curve:
        """Score the cut adapter at the wanted ranks that any layer has, and at the largest that is wanted and there."""
        most = max(available(layer) for layer in self.layers.values())
        asked = sorted({min(rank, most) for rank in wanted}, reverse=True)
        return Curve(
            split=self.split,
            rows=len(self.task.lengths(self.split)),
            score=self.task.main_score,
            whole=self.whole.scores,
            points=[self.point(uniform(self.layers, rank)) for rank in asked],
        )
