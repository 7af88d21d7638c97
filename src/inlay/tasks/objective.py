"""What a training minimizes, and by which score its best step is chosen."""

from typing import Any, Protocol

from torch import Tensor, nn

from .batches import Batch


class Objective(Protocol):
    """What is minimized: a task's loss, or another that takes batches of its own."""

    @property
    def main_score(self) -> Any:
        """The name of the metric by which one step is better than another."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over what is learned in the batch."""
        ...

    def weight(self, batch: Batch) -> int:
        """Count what `loss` is the mean of."""
        ...
