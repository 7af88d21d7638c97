"""The factor of a loss in its backward pass in float16, by which the gradients are divided afterwards.

float16 has no number between 0 and 6e-8, where many gradients of a mean over a batch lie, and none above 65,504. So the
factor is as large as may be: it is halved whenever a gradient is not finite, and doubled after many steps that were.
As `torch.amp.GradScaler` does it; but a value that never changes is what a checkpoint holds and a signal cannot come
into, and a power of two divides exactly without float64, which not every device has.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

STEADY = 2.0**10
"""For gradients that are only looked at, in any dtype: in float16 it makes room for those from 6e-11 up to 60."""
LARGEST = 2.0**24
_FIRST = 2.0**16
_STEPS = 2_000  # after which it is doubled


@dataclass(frozen=True)
class LossScale:
    factor: float = 1.0
    """A power of two; 1: the loss is as it is."""
    steps: int = 0
    """The steps since it was changed."""

    @classmethod
    def for_dtype(cls, dtype: torch.dtype) -> Self:
        """Return what a training begins with whose activations are of this dtype."""
        return cls(_FIRST if dtype == torch.float16 else 1.0)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss if self.factor == 1 else loss * self.factor

    def unscale_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the parameters' gradients by the factor."""
        if self.factor != 1:
            for p in parameters:
                if p.grad is not None:
                    p.grad.div_(self.factor)

    def after_step(self) -> Self:
        """Take note of a step whose gradients were finite."""
        if self.factor == 1 or self.steps + 1 < _STEPS:
            return replace(self, steps=self.steps + (self.factor != 1))
        return replace(self, factor=min(2 * self.factor, LARGEST), steps=0)

    def lowered(self) -> Self | None:
        """Return the scale to try after gradients that were not finite; None if none is left: they would not be finite
        in any other way either."""
        return None if self.factor == 1 else replace(self, factor=self.factor / 2, steps=0)
