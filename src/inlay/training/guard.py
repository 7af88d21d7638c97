"""Sees that a training collapses, and says what is left of its rate: half from its best step so far, a quarter from
the start, or the method's own rate if that is lower.

A rate that is right for the first steps can be too high for later ones: the loss rises past where it began and stays,
or the model gives every row the same answer, and no further step brings it back. What has been learned until then is
still there, in the best step's parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from ..tasks.metric import Scores

MOST_RETURNS = 8  # of one training; a rate 30 times too high takes two from the start
_LEAST_LEFT = 0.05  # of a rate, after one return
_WINDOW = 10  # steps whose mean loss is looked at
_EXPLODED = 1.5  # times the first loss, of that mean, and
_MARGIN = 0.5  # nats more: a small first loss varies by more than its half
_RISEN = 1.05  # times the first loss, if the loss on valid has risen as well
_FELL = 0.95  # times the first loss; above, it has hardly fallen
_LEARNED = 0.99  # times what is had on valid without learning: a loss above has nothing worth going back to


@dataclass(frozen=True)
class Scored:
    """What an evaluation tells the loop."""

    scores: Scores
    base_loss: float = math.inf
    """The base's loss on the same rows; infinite if that says nothing."""
    same_answer: bool = False
    """Whether every row gets the same answer, with the same confidence."""
    naive_loss: float = math.inf
    """The loss of what is answered without reading an input, such as the labels' shares."""

    @property
    def has_learned(self) -> bool:
        return self.scores["loss"] < _LEARNED * min(self.base_loss, self.naive_loss)


@dataclass(frozen=True)
class Safe:
    """A step that a training can go back to."""

    step: int
    scores: Scores | None  # None: of a start that was not scored
    parameters: Mapping[str, Tensor]
    memory: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # of the method, by host


@dataclass(frozen=True)
class Return:
    """A time that a training went back."""

    step: int
    """The step after which it did."""
    to: int
    """The step whose parameters it went back to; 0: the start."""
    share: float
    """What is left of the learning rate until then."""
    why: str


@dataclass(frozen=True)
class Guard:
    """What is remembered of the losses, and of the times the training went back. Replaced whole, like Progress."""

    first_loss: float | None = None
    losses: tuple[float, ...] = ()
    """The last steps' since the training went back."""
    returns: tuple[Return, ...] = ()

    @property
    def share(self) -> float:
        """The share of the learning rate that is left."""
        return math.prod(each.share for each in self.returns)

    @property
    def since(self) -> int:
        """The step after which the training went back last, and the rate rises anew; 0: it never did."""
        return self.returns[-1].step if self.returns else 0

    @property
    def may_return(self) -> bool:
        return len(self.returns) < MOST_RETURNS

    @property
    def hardly_fell(self) -> bool:
        """Whether the losses of the last steps are nearly that of the first."""
        return self._mean is not None and self.first_loss is not None and self._mean > _FELL * self.first_loss

    def was_at(self, step: int) -> bool:
        """Tell whether the training has gone back to this step before."""
        return any(each.to == step for each in self.returns)

    def after(self, loss: float) -> Self:
        """Take note of a step's loss."""
        first = loss if self.first_loss is None else self.first_loss
        return replace(self, first_loss=first, losses=(*self.losses, loss)[-_WINDOW:])

    def gone_back(self, step: int, to: int, why: str, *, by_chance: bool, own: float = 1.0) -> Self:
        """Take note of a return: half of the rate is left, or a quarter if nothing that lasts was learned with the
        whole. A loss that is not finite can come `by_chance`, and then says nothing of the rate.

        `own` is the method's own rate as a share of the one that was asked for. Where a quarter still lies above it,
        it would only cost another try: the own rate is taken, or a twentieth, as who asks for more may know more.
        """
        share = 0.5 if to or by_chance else min(0.25, max(own / self.share, _LEAST_LEFT))
        return replace(self, losses=(), returns=(*self.returns, Return(step, to, share, why)))

    def exploded(self) -> str | None:
        """Say how the loss of the last steps exceeds that of the first; None if it does not."""
        mean = self._mean
        if mean is None or self.first_loss is None or mean <= _EXPLODED * self.first_loss + _MARGIN:
            return None
        return f"the loss was {self.first_loss:.2f} at the first step and {mean:.2f} over the last {_WINDOW}"

    def collapsed(self, scored: Scored) -> str | None:
        """Say why an evaluation shows that nothing is left of what was learned; None if it does not."""
        if scored.same_answer:
            return "every row of valid gets the same answer"
        if explosion := self.exploded():
            return explosion
        mean, loss = self._mean, scored.scores["loss"]
        if mean is None or self.first_loss is None:
            return None
        if loss > _RISEN * scored.base_loss and mean > _RISEN * self.first_loss:
            return f"the loss on valid is {loss:.2f}, and was {scored.base_loss:.2f} before the training"
        return None

    @property
    def _mean(self) -> float | None:
        return sum(self.losses) / _WINDOW if len(self.losses) == _WINDOW else None
