"""A step that runs out of memory is done again in smaller parts, and so are those after it; its gradients are the same.

The micro-batch becomes half as large, down to one row; then every block is computed again in the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import DoesNotFit


@dataclass(frozen=True)
class Shrunk:
    """How a step, and those after it, are divided so that they fit in memory."""

    step: int  # 0: a trial before the first
    micro_batch_size: int
    recomputes: bool  # every block


def smaller(step: int, now: int, batch_size: int, can_recompute: Callable[[], bool], recomputes: bool) -> Shrunk:
    """Divide a step further whose micro-batches have `now` rows. Raises DoesNotFit if that cannot be."""
    if now > 1:
        half = next(size for size in range(now // 2, 0, -1) if batch_size % size == 0)
        return Shrunk(step, half, recomputes)
    if not recomputes and can_recompute():
        return Shrunk(step, 1, True)
    least = "one row at a time" + (" and every block computed again" if recomputes else "")
    what = f"step {step}" if step else "a step"
    raise DoesNotFit(
        f"out of memory in {what}, even with {least}; try a smaller --max-length, a base in fewer bits by --quantize "
        "nf4, or a smaller model"
    )
