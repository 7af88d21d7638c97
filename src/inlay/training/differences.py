"""How sure it is that one model is better than another on the same rows: compared part by part, not by their means."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ..report.classification import Z_95, paired_interval


@dataclass(frozen=True)
class Difference:
    """Of the task's first score, above zero where this model is better; with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """Of an accuracy: for each row whether it is right."""

    right_N: Tensor

    def gain(self, other: Self) -> Difference:
        won = int((self.right_N & ~other.right_N).sum())
        lost = int((other.right_N & ~self.right_N).sum())
        rows = len(self.right_N)
        return Difference((won - lost) / rows, *paired_interval(won, lost, rows))


@dataclass(frozen=True)
class Means:
    """Of a loss: the mean of each batch, and how many tokens it is of. Rows of one batch are of like length."""

    losses_N: Tensor
    tokens_N: Tensor

    def gain(self, other: Self) -> Difference:
        """The interval is that of a ratio whose batches are drawn, as wide as they differ from each other."""
        shares_N = self.tokens_N / self.tokens_N.sum()
        gains_N = other.losses_N - self.losses_N
        gain = float((shares_N * gains_N).sum())
        batches = len(gains_N)
        spread = float((shares_N * (gains_N - gain)).square().sum()) * batches / max(1, batches - 1)
        half = Z_95 * spread**0.5 if batches > 1 else float("inf")
        return Difference(gain, gain - half, gain + half)
