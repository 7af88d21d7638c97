"""What a task has of its base model to measure what a run forgets, and to hold it back."""

from typing import ClassVar, Protocol

from torch import Tensor, nn

from ..show.forgetting import GeometryChange, LossChange


class Baseline(Protocol):
    """A base's behaviour on general text, kept until the tuned model can be compared."""

    def compare(self, model: nn.Module) -> LossChange | GeometryChange:
        """Measure what the model has forgotten, as summary.json says it."""
        ...


class Held(Protocol):
    """A loss that holds a model to its base in training."""

    begins_least: ClassVar[bool]
    """Whether it is a distance from the base, and so nothing at the start."""

    def loss(self, model: nn.Module) -> Tensor:
        """Return the loss on some passages of general text, others each time."""
        ...
