"""What a training minimizes, and by which score its best step is chosen."""

from typing import Protocol

from torch import Tensor, nn

from .batch import Batch

Scores = dict[str, float]  # by the names of metrics


class Objective(Protocol):
    """A loss to minimize: a task's, or another that takes batches of its own."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over what is learned in the batch."""
        ...

    def weight(self, batch: Batch) -> int:
        """Count what `loss` is the mean of."""
        ...

    def is_better(self, scores: Scores, than: Scores | None) -> bool:
        """Tell whether a step with these scores is kept rather than the best so far, if there is one."""
        ...

    @property
    def begins_least(self) -> bool:
        """Whether a part of the loss is nothing at the start, so that the first loss is no measure of later ones."""
        ...
